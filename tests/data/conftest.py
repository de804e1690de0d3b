import zipfile
from pathlib import Path

import pytest
from small_stroke_files import WRITERS

REAL = Path(__file__).parents[2].parent / "shared" / "data"


@pytest.fixture
def real_file():
    def find(name):
        path = REAL / name
        if not path.exists():
            pytest.skip(f"the real file {name} is not beside the project")
        return path

    return find


@pytest.fixture
def write_zip(tmp_path):
    def write(members, name="file.zip", compression=zipfile.ZIP_DEFLATED):
        path = tmp_path / name
        with zipfile.ZipFile(path, "w", compression) as archive:
            for member, content in members.items():
                archive.writestr(member, content)
        return path

    return write


@pytest.fixture(params=WRITERS)
def small_file(request, tmp_path):
    """One valid file of each kind, with three drawings."""
    path = tmp_path / "small"
    WRITERS[request.param](path)
    return request.param, path

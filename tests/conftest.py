"What several test files need: the shared folder, where there is one, and marks that follow from the machine."
import os
from pathlib import Path
from urllib.error import URLError

# threads that spin while they wait make busy machines slower still; read when torch is imported
os.environ.setdefault('OMP_WAIT_POLICY', 'passive')

import pytest, torch

SHARED = Path(os.environ.get('IDGI_SHARED') or Path(__file__).resolve().parents[2]/'shared')


def pytest_collection_modifyitems(items):
    if torch.cuda.is_available(): return
    for item in items:
        if item.get_closest_marker('cuda'): item.add_marker(pytest.mark.skip(reason='no CUDA device'))


@pytest.fixture(scope='session')
def shared():
    "The folder with `golden` and `realdata`, beside the repository or at IDGI_SHARED."
    needed = [SHARED/'golden'/'study_mobilenet_v2.npz', SHARED/'realdata'/'realdata.py']
    missing = [str(p) for p in needed if not p.is_file()]
    if missing: pytest.skip(f'not here: {", ".join(missing)}')
    return SHARED


@pytest.fixture
def hub(tmp_path, monkeypatch):
    "An empty torch hub folder on a machine without a network."
    def refuse(*args, **kwargs): raise URLError('no route to host')
    monkeypatch.setattr('torch.hub.get_dir', lambda: str(tmp_path))
    monkeypatch.setattr('torch.hub.urlopen', refuse)
    (tmp_path/'checkpoints').mkdir()
    return tmp_path/'checkpoints'

"The demo, cut down to one map of each paper that it has: a photograph and pages, and nothing to do the second time."
import pytest

from idgi_repro import demo
from idgi_repro.study.parameters import Study

@pytest.mark.slow
def test_once_and_again(tmp_path, monkeypatch):
    monkeypatch.setattr(demo, 'STUDIES', (Study(networks=('mini_vgg',), data='embedded:20', images=2, shard_size=1, methods=('ig',),
                                                metrics=('insertion',), steps=(2,), protocols=('corrected',), threads=1),))
    monkeypatch.setattr(demo, 'OBJECTIVES', ('baseline',))
    monkeypatch.setattr(demo, 'FITTING', demo.FITTING | dict(methods=('baseline',), data='embedded:30', tested=20, samples=2, climb=2))
    given = str(tmp_path/'results'), str(tmp_path/'figures')
    said = demo.demo(*given)
    pages = [tmp_path/'figures'/p for p in ('cat-maps.png', 'index.html', 'densities/index.html')]
    assert all(p.stat().st_size > 1000 for p in pages) and str(pages[1]) in said
    monkeypatch.setattr(demo, 'run', None)                # a second call that computed would fail
    assert demo.demo(*given) == said
    pages[1].write_text('changed')
    with pytest.raises(TypeError): demo.demo(*given)

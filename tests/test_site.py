"The notebooks as a site: what nbdev and `make site` are told, and the pages in a browser."
import importlib.util
from pathlib import Path

import nbformat, pytest

from browser import Browser

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope='module')
def website():
    "workflow/website.py, which needs a package of the development's alone."
    pytest.importorskip('latex2mathml')
    spec = importlib.util.spec_from_file_location('website', ROOT/'workflow'/'website.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_every_notebook_is_in_the_contents(website):
    listed = [n for _, part in website.contents() for n in part]
    there = [p.relative_to(ROOT/'nbs').as_posix() for p in (ROOT/'nbs').rglob('*.ipynb') if '.ipynb_checkpoints' not in p.parts]
    assert sorted(listed) == sorted(there) and listed[0] == 'index.ipynb'
    for n in listed: assert all(website.head(nbformat.read(ROOT/'nbs'/n, 4))) or n.startswith('experiments/'), n


def test_the_pages_in_a_browser(website, tmp_path):
    "They ask for nothing but the repository's own files, fit, show formulas and pictures, and lead to one another."
    pages = website.site(tmp_path/'_site', ['index.ipynb', 'method/paths.ipynb'])
    (tmp_path/'figures').symlink_to(ROOT/'figures')
    browser = Browser()
    try:
        for width, dark in ((1280, False), (390, True)):
            for page in pages:
                browser.problems.clear(); browser.asked.clear()
                browser.open(page, width, dark)
                assert not browser.problems and all(a.startswith(('data:', tmp_path.as_uri())) for a in browser.asked)
                assert browser.js('document.documentElement.scrollWidth') <= width
        prose = '''(main => (main.querySelectorAll('pre, code').forEach(c => c.remove()), main.textContent))(
            document.querySelector('main').cloneNode(true))'''
        assert browser.js('document.querySelectorAll("math").length') > 20 and not {*'$\\'} & {*browser.js(prose)}
        assert browser.js('[...document.images].length && [...document.images].every(i => i.naturalWidth)')
        assert '#|' not in browser.js('document.body.innerText') and browser.js('document.querySelector("nav .seen").innerText') == 'Paths'
        browser.open(pages[0])
        links = browser.js('[...document.querySelectorAll("main a")].map(a => a.getAttribute("href"))')
        assert 'method/paths.html' in links and not [l for l in links if '.ipynb' in l and not l.startswith('http')]
        assert browser.js('document.querySelectorAll("dl.all a").length') == len([n for s, part in website.contents() if s for n in part])
    finally: browser.close()

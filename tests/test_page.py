"The report's page in a browser: it loads nothing, complains of nothing, fits, folds, sorts, opens figures and prints."
import io
from dataclasses import replace

import numpy as np, pytest
from PIL import Image

from browser import Browser
from idgi_repro.papers.idgi import PAPER
from idgi_repro.report.page import report
from simulate import simulate

METRICS = PAPER.metrics[:8]
SMALL = replace(PAPER, metrics=METRICS, figures=None, claims=tuple(c for c in PAPER.claims if {*c.metrics} <= {m.name for m in METRICS}))


@pytest.fixture(scope='module')
def browser():
    one = Browser()
    yield one
    one.close()


@pytest.fixture(scope='module')
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp('page')
    simulate(folder/'rows', protocols=('corrected',), images=12, steps=(4, 8))
    report(folder/'rows', folder/'out', SMALL, maps_of=None)
    return folder/'out'/'index.html'


def shown(browser): return np.asarray(Image.open(io.BytesIO(browser.picture())).convert('L'))

@pytest.mark.parametrize('width', [1280, 390])
@pytest.mark.parametrize('dark', [False, True])
def test_it_fits_and_asks_for_nothing(browser, page, width, dark):
    browser.problems.clear(); browser.asked.clear()
    browser.open(page, width, dark)
    browser.js("document.getElementById('all').click()")
    assert not browser.problems and [a for a in browser.asked if not a.startswith('data:')] == [page.as_uri()]
    assert browser.js('document.documentElement.scrollWidth') <= width
    assert browser.js("[...document.images].filter(i => i.src).every(i => i.complete && i.naturalWidth)")
    assert (np.median(shown(browser)) < 60) == dark
    browser.js('scrollTo({top: 1500, behavior: "instant"})')
    assert browser.js("document.querySelector('nav').getBoundingClientRect().top") == 0 < browser.js('scrollY')


def test_the_contents_lead_to_what_is_folded(browser, page):
    browser.open(page)
    folded = "document.querySelectorAll('main details[open]').length"
    assert browser.js(folded) == 0
    browser.js("""document.querySelector('nav a[href="#table-gains-corrected"]').click()""")
    assert browser.js("new Promise(done => setTimeout(() => done([...document.querySelectorAll('main details[open]')].map(d => d.id)), 50))"
                      ) == ['tables', 'table-gains-corrected']
    for left in (False, True):
        browser.js("document.getElementById('all').click()")
        assert browser.js("[...document.querySelectorAll('main details')].some(d => !d.open)") == left


COLUMN = """[...document.querySelectorAll('#table-gains-corrected tbody tr')].map(r => r.cells[{}].textContent)"""

def test_tables_are_sorted(browser, page):
    "By numbers where a column holds them, by text elsewhere; what is no number comes last either way."
    browser.open(page)
    browser.js("""document.querySelector('#table-gains-corrected tbody tr').cells[3].textContent = 'undefined'""")
    click = """document.querySelectorAll('#table-gains-corrected th button')[{}].click()"""
    for sign, said in ((1, 'ascending'), (-1, 'descending')):
        browser.js(click.format(3))
        *numbers, last = browser.js(COLUMN.format(3))
        assert last == 'undefined' and sorted(map(float, numbers), key=lambda v: sign*v) == [*map(float, numbers)] and len({*numbers}) > 3
        assert browser.js("""document.querySelector('#table-gains-corrected [aria-sort]').ariaSort""") == said
    browser.js(click.format(1))
    assert browser.js(COLUMN.format(1)) == sorted(browser.js(COLUMN.format(1)))
    assert {*browser.js(COLUMN.format(2))} == {m.named for m in METRICS}


def test_a_figure_opens_large(browser, page):
    browser.open(page, 390)
    wide = browser.js("document.querySelector('.zoom').click(), document.querySelector('dialog').open"
                      " && document.querySelector('dialog img').getBoundingClientRect().width")
    assert wide > 2*browser.js("document.querySelector('.zoom img').getBoundingClientRect().width") > 390
    browser.js("document.querySelector('dialog').click()")
    assert not browser.js("document.querySelector('dialog').open")


def test_it_prints_unfolded(browser, page):
    browser.open(page)
    folded = "document.querySelectorAll('main details:not([open])').length"
    before = browser.js(f"left = []; addEventListener('beforeprint', () => left.push({folded})); {folded}")
    browser('Page.printToPDF')
    assert browser.js('left') == [0] and browser.js(folded) == before > 0


def test_a_claim_is_a_line(browser, page):
    "Its verdict's colour, a plot of its intervals, and what was not run in a fold of its own."
    browser.open(page)
    lines = browser.js("""[...document.querySelectorAll('.claim')].map(c => [c.querySelector('.verdicts').innerText,
        getComputedStyle(c.querySelector('b')).color, c.querySelectorAll('.plot g').length, c.querySelectorAll('tbody tr').length])""")
    *some, none = lines
    colours = {said: colour for said, colour, *_ in lines if ' ' not in said or said == 'not run'}
    assert none[0] == 'not run' and {'supported', 'undecided'} & {*colours} and len({*colours.values()}) == len(colours) > 1
    assert all(plotted == rows > 0 for *_, plotted, rows in some)

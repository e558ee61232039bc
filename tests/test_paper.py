"A paper of one's own: two methods, one metric, one claim and one figure, from images to the finished page, with nothing else changed."
# ---- the paper, as a user would write it
import matplotlib.pyplot as plt, torch

from idgi_repro.method.paths import StraightPath
from idgi_repro.method.rules import riemann
from idgi_repro.records import Claim, Measurement, Method, Metric, Paper
from idgi_repro.report.claims import gain
from idgi_repro.report.style import Drawing, styled

def edges(subject):
    "How much the image changes from a pixel to the next, which asks no network."
    p = subject.pixels.mean(1)
    return torch.nn.functional.pad((p[:, 1:, 1:] - p[:, :-1, :-1]).abs(), (0, 1, 0, 1))

def spread(scene):
    "The share of pixels that hold half of a map's size."
    size = scene.maps.abs().flatten(2).sort(descending=True).values.double()
    return dict(spread=(size.cumsum(2) < size.sum(2, keepdim=True)/2).double().mean(2))

METHODS = (Method('edges', 'Edges', function=edges, colour='#777777', marker='s'),
           Method('line', 'Straight line', path=lambda s: StraightPath(s.black), rule=riemann, base='edges', colour='#004488'))
METRICS = Metric('spread', 'Spread', 'share of pixels', Measurement('spread', spread), False),
CLAIMS = Claim('The straight line is more focused than edges', 'spread minus that of edges', gain, ('spread',), ('line',), above=False),

@styled
def histogram(rows, paper):
    fig, ax = plt.subplots(figsize=(4, 3), layout='constrained')
    for m in paper.methods: ax.hist(rows.spread[rows.method == m.name], color=m.colour, alpha=.6, label=m.title)
    ax.set(xlabel='spread (share of pixels)', ylabel='maps')
    ax.legend()
    return fig

def figures(rows, manifests, paper, tables, photographs):
    return {'histogram': Drawing('How spread', 'Every map of every image.', lambda: histogram(rows, paper), own=True)}, []

TOY = Paper('toy', 'Edges against a straight line', METHODS, METRICS, CLAIMS, steps=(4, 8), figures=figures)
# ---- end of the paper


def test_a_paper_goes_from_images_to_the_page(tmp_path):
    from idgi_repro.papers.loading import load_paper
    from idgi_repro.report.page import report
    from idgi_repro.report.results import read
    from idgi_repro.study.shard import Shard, run
    paper = load_paper(f'{__file__}:TOY')
    what = dict(paper=f'{__file__}:TOY', network='mini_mobilenet', data='embedded:40', stop=6, images=6, out=str(tmp_path/'r'))
    for protocol in paper.protocols: run(Shard(**what, protocol=protocol), paper)
    rows, _ = read(tmp_path/'r')
    assert {*zip(rows.method, rows.steps)} == {('edges', 0), ('line', 4), ('line', 8)} and rows.spread.between(0, 1).all()
    assert rows.spread.notna().all()
    files = {f.name for f in report(tmp_path/'r', tmp_path/'out', paper)}
    assert {'spread-corrected.md', 'gains-published.csv', 'claims.tex', 'histogram.png', 'maps.png', 'curves-spread-corrected.svg',
            'protocols.png', 'index.html'} <= files
    html = (tmp_path/'out'/'index.html').read_text('utf-8').split('<main>')[1]
    order = [html.index(t) for t in ('<h1>Edges against a straight line</h1>', '<figcaption>photograph',
                                     'The straight line is more focused than edges', 'How spread', 'Maps of every method')]
    assert order == sorted(order) and 'IDGI' not in html and '>Straight line<' in html


def test_the_toy_paper_is_short():
    lines = open(__file__, encoding='utf-8').read().split('# ---- ')[1].splitlines()
    assert len(lines) < 60 and max(map(len, lines)) <= 140

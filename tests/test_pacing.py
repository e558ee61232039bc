"Newer paths: functions with known integrals, where the points lie, and what is refused."
import numpy as np, pytest, torch

from idgi_repro.errors import InputError
from idgi_repro.method.attribution import attribute
from idgi_repro.method.gradients import logit
from idgi_repro.method.pacing import DecisionPath, LeftPath, Paced, Powell, SingularPath, _counts, decision, roughness, spread
from idgi_repro.method.paths import BlurPath, Path, StraightPath
from idgi_repro.method.rules import absolute, idgi, riemann, trapezoid

from reference import Function, image, pictures, smooth

C = torch.tensor([0])
EVEN, STEEP = torch.ones(8), torch.tensor([.01, .01, 1, 9, 9, 1, .01, .01])
PATHS = dict(paced=lambda: Paced(StraightPath(0.), STEEP), powell=lambda: Powell(StraightPath(0.), STEEP), left=lambda: LeftPath(0.),
             decision=lambda: DecisionPath(0.), singular=lambda: SingularPath(0.), blur=lambda: Paced(BlurPath(3.), STEEP))

@pytest.mark.parametrize('name', ['paced', 'powell', 'singular'])
def test_a_square_is_its_integral(name):
    "f = (a + 2 b)^2 from 0 to (3, 1): the gradient's integral along the line is x_i w_i (w x); along any path the sum is f."
    x = image(3., 1.)
    got = attribute(Function(lambda a, b: (a + 2*b)**2), x, C, PATHS[name](), (24,), (trapezoid,),
                    score=logit)['riemann_trapezoid', 24].flatten()
    assert got.sum().item() == pytest.approx(25, rel=.01)
    if name != 'singular': assert got.tolist() == pytest.approx([15, 10], rel=.01)

@pytest.mark.parametrize('name', PATHS)
@pytest.mark.parametrize('rule', [riemann, idgi, absolute, trapezoid], ids=lambda r: r.name)
def test_every_path_goes_with_every_rule_and_batches_change_nothing(name, rule):
    x, c = pictures(3), torch.tensor([0, 1, 2])
    steps = (4,) if name == 'powell' else (3, 6)
    both = attribute(smooth(), x, c, PATHS[name](), steps, (rule,))
    alone = attribute(smooth(), x[1:2], c[1:2], PATHS[name](), steps, (rule,), batch_size=2)
    assert all(torch.allclose(both[k][1:2], alone[k], rtol=1e-6, atol=1e-9) for k in both)

def test_points_are_dense_where_the_gradient_turns():
    t = torch.cat(Paced(StraightPath(), STEEP).positions(16, 'corrected'))
    assert t[0] == 0 and t[-1] == 1 and (t.diff() > 0).all()
    assert ((t > .25) & (t < .75)).sum() > 12
    assert torch.allclose(torch.cat(Paced(StraightPath(), EVEN).positions(16, 'corrected')), torch.arange(17, dtype=torch.float64)/16)

@pytest.mark.parametrize('n', [4, 8, 12])
def test_the_closed_form_and_powells(n):
    "Powell's method finds less of the published sum, in which a step may jump over a peak, and leaves more of what a step passes."
    m = torch.from_numpy(np.exp(-((np.arange(64)/64 - .3)/.1)**2) + .05)
    closed, powell, even = (torch.cat(p.positions(n, 'corrected')).numpy() for p in (Paced(StraightPath(), m), Powell(StraightPath(), m),
                                                                                    Paced(StraightPath(), torch.ones(64))))
    assert spread(m, powell) < spread(m, closed) < spread(m, even)
    assert spread(m, closed, True) < min(spread(m, powell, True), spread(m, even, True))

def test_roughness_of_a_quadratic_is_even():
    "The gradient of (a + 2 b)^2 turns evenly: n^2 sum |dg dx| = 2 (w x)(|w| |x|) for every segment."
    m = roughness(Function(lambda a, b: (a + 2*b)**2), image(3., 1.), C, StraightPath(0.), 8, score=logit)
    assert m.tolist() == pytest.approx([2*5*5]*8)

def test_left_stops_where_the_score_is_full():
    "f = min(a, 1) of a up to 4: nine tenths are reached at a = .9."
    path = LeftPath(0., probes=400)
    got = attribute(Function(lambda a, b: a.clamp(max=1) + 0*b), image(4., 1.), C, path, (64,), (riemann,), score=logit)['riemann', 64]
    assert got.flatten().tolist() == pytest.approx([.91, 0], abs=.011)

@pytest.mark.parametrize('where, low, high, published', [(.7, .51, .88, .37), (.5, .31, .68, .37), (.3, .11, .48, .37)])
def test_decision_points_lie_where_the_score_rises(where, low, high, published):
    "As intended they do; the published code puts them before a late rise."
    f = torch.sigmoid(30*(torch.arange(101, dtype=torch.float64)/100 - where))[:, None]
    t, p = (DecisionPath().place(f, protocol)[:-1, 0] for protocol in ('corrected', 'published'))
    assert [float(v) for v in (t.min(), t.max(), p.min(), p.max())] == pytest.approx([low, high, 0, published])

@pytest.mark.parametrize('slopes', [torch.zeros(3, 7), torch.eye(7)[:3], torch.rand(5, 7, dtype=torch.float64), -torch.rand(2, 7),
                                    torch.arange(7.)[None]])
def test_every_point_is_placed(slopes):
    counts = _counts(slopes.double(), 7)
    assert (counts.sum(1) == 7).all() and counts.min() >= 0

def test_a_decision_weighs_by_the_slope():
    "f = a: every slope is x_a, so the map is x_a times IG's."
    got = attribute(Function(lambda a, b: a + 0*b), image(3., 1.), C, DecisionPath(0.), (8,), (decision, riemann), score=logit)
    assert torch.allclose(got['decision', 8], 3*got['riemann', 8]) and got['riemann', 8].flatten().tolist() == pytest.approx([3, 0])

def test_singular_values_appear_in_their_order():
    "Of a diagonal image with values 4 and 2, and w = .4: the second begins at .3, the first is whole at .4."
    x = torch.diag(torch.tensor([4., 2.], dtype=torch.float64))[None, None]
    at = SingularPath(0.).at(x, torch.tensor([0, .2, .3, .4, .5, .7, 1.], dtype=torch.float64))[:, 0, 0]
    assert at[:, 0, 0].tolist() == pytest.approx([0, 2, 3, 4, 4, 4, 4]) and at[:, 1, 1].tolist() == pytest.approx([0, 0, 0, .5, 1, 2, 2])

REFUSED = [('not known beforehand', lambda: Paced(Path(), EVEN)), ('roughness', lambda: Paced(StraightPath(), -EVEN)),
           ('roughness', lambda: Paced(StraightPath(), EVEN*torch.nan)), ('roughness', lambda: Paced(StraightPath(), EVEN[:0])),
           ('level is 1', lambda: LeftPath(level=1)), ('width is 0', lambda: SingularPath(width=0)),
           ('width is 1.1', lambda: SingularPath(width=1.1)),
           ('knows its line', lambda: attribute(smooth(), pictures(1), 0, StraightPath(), (4,), (decision,))),
           ('does not fit', lambda: attribute(smooth(), pictures(1), 0, SingularPath(torch.zeros(1, 4, 8, 8)), (4,)))]

@pytest.mark.parametrize('said, call', REFUSED)
def test_what_cannot_be(said, call):
    with pytest.raises(InputError, match=said): call()

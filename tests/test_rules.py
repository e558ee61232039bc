"What a segment is worth: rules against plain formulas, what they cost, and paths of several lines."
from collections import Counter
from dataclasses import replace

import pytest, torch
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.method import attribution
from idgi_repro.method.attribution import attribute
from idgi_repro.method.gradients import logit, predict, probability
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.paths import BlurPath, Path, StraightPath, noise
from idgi_repro.method.rules import (Riemann, Rule, absolute, along, as_rules, idgi, riemann, second_order, squares, trapezoid,
                                     trapezoid_idgi)
from idgi_repro.study.scene import seed_of
from reference import Function, image, look, pictures, smooth

BLACK = -1.
PATHS = dict(straight=StraightPath(BLACK), guided=GuidedPath(BLACK), blur=BlurPath(4.), displaced=BlurPath(4., None))
paths = pytest.mark.parametrize('path', PATHS.values(), ids=PATHS)
protocols = pytest.mark.parametrize('protocol', ['corrected', 'published'])

def classes(b): return torch.arange(b) % 5
def relative(a, b): return float((a - b).norm()/b.norm())

def total(a): return a.sum((1, 2, 3), keepdim=True)
def share(g): return g**2/total(g**2)

def riemann_again(grad, dx, df): return grad*dx
def idgi_again(grad, dx, df): return share(grad)*df.view(-1, 1, 1, 1)
def absolute_again(grad, dx, df): return (grad*dx).abs()
def along_again(grad, dx, df): return share(grad)*total(grad*dx)
def squares_again(grad, dx, df): return share(grad)/8

FORMULAS = {Riemann('left'): riemann_again, idgi: idgi_again, absolute: absolute_again, along: along_again, squares: squares_again}


# -- names

def one(grad, dx, df): return grad*dx

@pytest.mark.parametrize('rules, name', [((riemann, riemann), 'riemann'), ((idgi, Riemann(name='idgi')), 'idgi'), ((one, one), 'one'),
                                         ((lambda g, dx, df: g, lambda g, dx, df: dx), '<lambda>')], ids=str)
def test_two_rules_of_one_name_are_refused(rules, name):
    with pytest.raises(InputError, match=f'two rules are called {name!r}'): as_rules(rules)
    with pytest.raises(InputError, match=f'two rules are called {name!r}'):
        attribute(smooth(), pictures(1), classes(1), StraightPath(BLACK), (2,), rules)

@pytest.mark.parametrize('rules', [(), (3,), (riemann, 'idgi'), (None,)], ids=str)
def test_what_is_no_rule_is_refused(rules):
    with pytest.raises(InputError, match='rule'): attribute(smooth(), pictures(1), classes(1), StraightPath(BLACK), (2,), rules)

def test_an_unknown_side_is_refused():
    with pytest.raises(InputError, match="side is 'middle'; it must be one of left, right, trapezoid"): Riemann('middle')

def test_every_rule_has_a_name_of_its_own():
    every = [riemann, *map(Riemann, ('left', 'right', 'trapezoid')), idgi, trapezoid_idgi, second_order, absolute, squares, along]
    assert len({r.name for r in every}) == len(every) and as_rules(every) == every


# -- formulas

@paths
@protocols
@pytest.mark.parametrize('dtype', [torch.float64, torch.float32], ids=str)
def test_a_function_agrees_with_the_rule_of_the_same_formula(path, protocol, dtype):
    maps = attribute(smooth().to(dtype), pictures(3).to(dtype), classes(3), path, (8,), (*FORMULAS, *FORMULAS.values()), protocol)
    for rule, function in FORMULAS.items():
        a, b = maps[rule.name, 8], maps[function.__name__, 8]
        assert relative(a, b) < 1e-6 and b.norm() > 0, rule

@paths
@protocols
def test_riemann_takes_the_gradient_at_the_start_but_on_the_published_straight_line(path, protocol):
    maps = attribute(smooth(), pictures(2), classes(2), path, (8,), (riemann, Riemann('left'), Riemann('right'), riemann_again), protocol)
    right = protocol == 'published' and path is PATHS['straight']
    assert torch.equal(maps['riemann', 8], maps['riemann_right' if right else 'riemann_left', 8])
    assert (relative(maps['riemann', 8], maps['riemann_again', 8]) < 1e-6) == (not right)

@pytest.mark.parametrize('side, order', [('left', 1), ('right', 1), ('trapezoid', 2)])
def test_a_known_integral_is_met_with_the_sums_order(side, order):
    "f = a²b from the origin: the integrals are 2a²b/3 and a²b/3."
    exact = torch.tensor([2*45/3, 45/3], dtype=torch.float64)
    net, c = Function(lambda a, b: a**2*b), torch.tensor([0])
    found = attribute(net, image(3, 5), c, StraightPath(0.), (8, 16, 32), (Riemann(side),), score=logit)
    coarse, fine, finest = (float((a.flatten() - exact).norm()) for a in found.values())
    for ratio in (coarse/fine, fine/finest): assert ratio == pytest.approx(2**order, rel=.1)

@paths
@pytest.mark.parametrize('n', [1, 3, 8])
def test_trapezoid_idgi_is_complete_on_the_corrected_protocol(path, n):
    net, x, c = smooth(), pictures(3), classes(3)
    a = attribute(net, x, c, path, (n,), (trapezoid_idgi,))['idgi_trapezoid', n]
    start, end = (probability(predict(net, v), c) for v in path.ends(x))
    assert torch.allclose(a.sum((1, 2, 3)), end - start, rtol=1e-9, atol=1e-14) and (end - start).abs().min() > 1e-5

def test_idgi_is_of_first_order_and_trapezoid_idgi_of_second():
    maps = attribute(smooth(), pictures(2), classes(2), StraightPath(BLACK), (16, 32, 1024), (idgi, trapezoid_idgi))
    for rule, order in ((idgi, 1), (trapezoid_idgi, 2)):
        coarse, fine = (relative(maps[rule.name, n], maps['idgi_trapezoid', 1024]) for n in (16, 32))
        assert coarse/fine == pytest.approx(2**order, rel=.15), rule

def test_controls_are_what_plain_loops_add_up():
    net, x, n = smooth(), pictures(1), 6
    start = torch.full_like(x[0], BLACK)
    step = (x[0] - start)/n
    g = [look(net, start + i*step, 2)[1] for i in range(n)]
    expected = dict(absolute=sum((v*step).abs() for v in g), squares=sum(v**2/(v**2).sum() for v in g)/n,
                    along=sum(v**2*(v*step).sum()/(v**2).sum() for v in g))
    maps = attribute(net, x, torch.tensor([2]), StraightPath(BLACK), (n,), (absolute, squares, along))
    for name, e in expected.items(): assert torch.allclose(maps[name, n][0], e, rtol=1e-10, atol=1e-14), name
    assert (maps['absolute', n] >= 0).all() and maps['squares', n].sum().item() == pytest.approx(1)


# -- what it costs

class Counting(nn.Module):
    "Counts images by what is done with them."
    def __init__(self, net): super().__init__(); self.net, self.calls, self.what = net, Counter(), None
    def forward(self, x):
        self.calls[self.what or ('gradients' if torch.is_grad_enabled() else 'values')] += len(x)
        return self.net(x)

def counted(monkeypatch, path, rules, protocol='corrected', steps=(8,)):
    net, real = Counting(smooth()), attribution.hessian_vector
    def product(f, x, v):
        net.calls['hessians'] += len(x)
        net.what = 'within'
        try: return real(f, x, v)
        finally: net.what = None
    monkeypatch.setattr(attribution, 'hessian_vector', product)
    attribute(net, pictures(2), classes(2), path, steps, rules, protocol)
    return {k: v/2 for k, v in net.calls.items() if k != 'within'}           # per image

COSTS = [((riemann,), 8, 0, 0), ((Riemann('left'), absolute, squares, along), 8, 0, 0), ((idgi,), 8, 1, 0), ((riemann, idgi), 8, 1, 0),
         ((one,), 8, 1, 0),
         ((Riemann('right'),), 9, 0, 0), ((trapezoid, idgi), 9, 0, 0), ((trapezoid_idgi,), 9, 0, 0), ((second_order,), 8, 1, 8),
         ((second_order, trapezoid), 9, 0, 8)]

@paths
@pytest.mark.parametrize('rules, gradients, values, hessians', COSTS, ids=str)
def test_a_walk_computes_what_its_rules_need_and_no_more(path, rules, gradients, values, hessians, monkeypatch):
    found = counted(monkeypatch, path, rules)
    assert found == {k: v for k, v in dict(gradients=gradients, values=values, hessians=hessians).items() if v}

@paths
@pytest.mark.parametrize('rules', [(riemann,), (riemann, idgi), (idgi, trapezoid)], ids=str)
def test_the_published_protocol_looks_at_no_end(path, rules, monkeypatch):
    assert counted(monkeypatch, path, rules, 'published') == dict(gradients=8)

@paths
@protocols
@pytest.mark.parametrize('steps', [(8,), (4, 8), (2, 8, 4)], ids=str)
def test_a_path_says_what_it_costs(path, protocol, steps, monkeypatch):
    assert counted(monkeypatch, path, (riemann,), protocol, steps)['gradients'] == path.gradients(steps, protocol)

def test_a_tick_for_every_gradient():
    ticks = []
    attribute(smooth(), pictures(2), classes(2), StraightPath(BLACK), (4, 8), (riemann, idgi), tick=ticks.append)
    assert sum(ticks) == 2*StraightPath(BLACK).gradients((4, 8))


# -- lines

class Lines(Path):
    "Straight lines from several baselines, one after the other."
    def __init__(self, *baselines): self.baselines = baselines
    def ends(self, x): return torch.full_like(x, self.baselines[0]), x
    def visit(self, look, x, n, protocol='corrected'):
        ts = torch.arange(n+1, dtype=x.dtype)/n
        for line, b in enumerate(self.baselines):
            xs = b + ts[:, None, None, None, None]*(x - b)
            yield from look.points(ts[:-1], xs[:-1], line=line)
            yield replace(look.last(1., xs[-1]), line=line)

class Spy(Rule):
    "Counts segments; notes where lines end."
    name = 'spy'
    def __init__(self): self.segments, self.ends = 0, []
    def add(self, total, s): self.segments += 1
    def line(self, total, last): self.ends.append((last.line, last.t))

def test_a_path_of_two_lines_is_the_sum_of_both():
    net, x, c = smooth(), pictures(2), classes(2)
    rules = (riemann, idgi, absolute, along, squares, trapezoid, trapezoid_idgi, second_order)
    both, first, second = (attribute(net, x, c, Lines(*b), (4,), (*rules, spy := Spy())) for b in ((-1., .5), (-1.,), (.5,)))
    for r in rules: assert relative(both[r.name, 4], first[r.name, 4] + second[r.name, 4]) < 1e-12, r
    alone = attribute(net, x, c, StraightPath(.5), (4,), rules)
    for r in rules: assert relative(second[r.name, 4], alone[r.name, 4]) < 1e-12, r

def test_a_line_ends_once():
    spy = Spy()
    attribute(smooth(), pictures(2), classes(2), Lines(-1., .5, 0.), (4,), (spy,))
    assert spy.segments == 3*4 and spy.ends == [(0, 1.), (1, 1.), (2, 1.)]

def test_a_line_ends_once_for_every_step_count():
    spy = Spy()
    attribute(smooth(), pictures(2), classes(2), StraightPath(BLACK), (2, 4), (spy,))
    assert spy.segments == 2 + 4 and spy.ends == [(0, 1.)]*2


class Alone(Path):
    "Points that each stand for themselves: a displacement and a weight of their own, as of expected gradients."
    def __init__(self, weights): self.weights = weights
    def ends(self, x): return torch.full_like(x, BLACK), x
    def visit(self, look, x, n, protocol='corrected'):
        for line, w in enumerate(self.weights):
            t = (line + 1)/(len(self.weights) + 1)
            yield from look.points([t], (BLACK + t*(x - BLACK))[None], [x - BLACK], line=line, weight=w)

@pytest.mark.parametrize('weights', [(.2, .7, .4), (None, None, None)], ids=['weights', '1/n'])
def test_a_point_with_a_way_and_a_weight_stands_for_itself(weights):
    net, x = smooth(), pictures(1)
    spy, way = Spy(), x[0] - BLACK
    maps = attribute(net, x, torch.tensor([1]), Alone(weights), (3,), (riemann, idgi, absolute, along, squares, spy))
    g = [look(net, BLACK + (i+1)/4*way, 1)[1] for i in range(3)]
    w = [v or 1/3 for v in weights]
    expected = dict(riemann=sum(v*way*u for v, u in zip(g, w)), absolute=sum((v*way).abs()*u for v, u in zip(g, w)),
                    along=sum(v**2*(v*way).sum()/(v**2).sum()*u for v, u in zip(g, w)),
                    squares=sum(v**2/(v**2).sum()*u for v, u in zip(g, w)))
    for name, e in expected.items(): assert torch.allclose(maps[name, 3][0], e, rtol=1e-10, atol=1e-14), name
    assert not maps['idgi', 3].any() and spy.segments == 3 and [line for line, _ in spy.ends] == [0, 1, 2]


# -- draws

@pytest.mark.parametrize('uniform', [False, True])
def test_an_images_draws_are_its_own_whatever_batch_it_is_in(uniform):
    seeds, shape = [seed_of(d, 3) for d in ('0123', '4567', '89ab', 'cdef')], (3, 5, 7)
    whole = noise(seeds, shape, uniform)
    order = [2, 0, 3, 1]
    assert torch.equal(noise([seeds[i] for i in order], shape, uniform), whole[order])
    assert torch.equal(torch.cat([noise(seeds[i:j], shape, uniform) for i, j in ((0, 1), (1, 3), (3, 4))]), whole)
    torch.rand(10), torch.manual_seed(5)
    assert torch.equal(noise(seeds, shape, uniform), whole) and len({float(v) for v in whole[:, 0, 0, 0]}) == 4
    assert whole.shape == (4, *shape) and whole.dtype == torch.float32
    assert (whole.min() >= 0 and whole.max() < 1) if uniform else whole.abs().max() > 1

def test_noise_leaves_the_shared_generator_alone():
    before = torch.get_rng_state()
    noise([1, 2], (3,))
    assert torch.equal(torch.get_rng_state(), before)

def test_a_seed_is_of_the_images_bytes_and_the_studys_seed():
    seeds = {seed_of(d, s) for d in ('0123', '0124') for s in (0, 1)}
    assert len(seeds) == 4 and all(0 <= s < 2**63 for s in seeds) and seed_of('0123', 0) in seeds
    assert seed_of('0123', 0) == seed_of('0123', 0)

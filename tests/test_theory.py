"""The series, its reversion, the point on the ray, and the rule of second order: against sympy, known inverses, whole Hessians and plain
sums."""
from math import factorial

import numpy as np, pytest, sympy as sp, torch

from idgi_repro.method.attribution import PathMethod, attribute
from idgi_repro.method.rules import Segment, idgi, riemann, second_order, trapezoid, trapezoid_idgi
from idgi_repro.method.gradients import contrast, logit, predict, probability, value_and_gradient
from idgi_repro.errors import InputError
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.paths import BlurPath, Look, Point, StraightPath
from idgi_repro.method.theory import construction, derivatives, exact_time, hessian_vector, landscape, ray_segment, ray_time, split
from reference import Function, image, pictures, smooth

PATHS = [StraightPath(-1.), GuidedPath(-1.), BlurPath(4.)]
paths = pytest.mark.parametrize('path', PATHS, ids=lambda p: type(p).__name__)

def tensor(*v): return torch.tensor(v, dtype=torch.float64)
def dot(a, b): return (a*b).flatten(1).sum(1)
def slope(lengths, errors): return np.polyfit(np.log(lengths), errors.log().mean(1).numpy(), 1)[0]

def explained(net, c, score=probability): return lambda p: score(net(p), c)


# -- the series

def test_reversion_is_sympys():
    z, D, d = sp.symbols('z'), [2, sp.Rational(-7, 10), 3, sp.Rational(2, 5), -1], sp.Rational(3, 10)
    b = sp.symbols('b1:6')
    T = sum(b[k]*z**(k+1) for k in range(5))
    equation, found = sp.expand(sum(D[k]*T**(k+1)/sp.factorial(k+1) for k in range(5)) - z), {}
    for k in range(5): found[b[k]] = sp.solve(equation.coeff(z, k+1).subs(found), b[k])[0]
    expected = np.cumsum([float(found[b[k]]*d**(k+1)) for k in range(5)])
    assert torch.allclose(ray_time(tensor(*map(float, D))[:, None], tensor(.3))[:, 0], torch.from_numpy(expected), rtol=1e-12)


@pytest.mark.parametrize('D,inverse', [
    (lambda k: 1., lambda d: np.log1p(d)),                                              # e^t - 1
    (lambda k: (-1.)**(k-1)*factorial(k-1), lambda d: np.expm1(d)),                    # log(1 + t)
    (lambda k: factorial(k), lambda d: d/(1 + d)),                                      # t/(1 - t)
    (lambda k: {1: 3., 2: -2.}.get(k, 0.), lambda d: (3 - np.sqrt(9 - 4*d))/2)], ids=['exp', 'log', 'hyperbola', 'parabola'])
def test_reversion_approaches_known_inverses_one_power_at_a_time(D, inverse):
    df = np.array([.1, -.05, .02])
    T = ray_time(torch.tensor([[D(k)]*3 for k in range(1, 8)], dtype=torch.float64), torch.from_numpy(df)).numpy()
    for k in range(7): assert (abs(T[k] - inverse(df)) <= 2*abs(df)**(k+2)).all()


@pytest.mark.parametrize('score', [probability, logit, contrast])
def test_derivatives_along_the_gradient_are_those_of_the_whole_hessian(score):
    net, x, c = smooth(), pictures(3, 3, 5, 5), torch.tensor([0, 3, 1])
    _, g = value_and_gradient(net, x, c, score)
    D, h = derivatives(explained(net, c, score), x, g, 2), hessian_vector(explained(net, c, score), x, g)
    for i in range(3):
        H = torch.autograd.functional.hessian(lambda p: explained(net, c[i:i+1], score)(p[None])[0], x[i]).view(75, 75)
        v = g[i].flatten()
        assert torch.allclose(h[i].flatten(), H @ v, rtol=1e-9, atol=1e-16)
        assert torch.allclose(D[:, i], torch.stack([v @ v, v @ H @ v]), rtol=1e-9)


def test_order_of_derivatives_is_checked():
    with pytest.raises(InputError, match='order is 0'): derivatives(landscape, tensor(0, 0)[None], tensor(1, 0)[None], 0)


# -- the point on the ray

def test_exact_time_solves_the_equation_or_says_that_it_cannot():
    f, x = lambda p: p[:, 0].tanh(), torch.zeros(6, 2, dtype=torch.float64)
    g, df = tensor(1, 0).expand(6, 2).clone(), tensor(.3, -.9, 1.2, 0., .3, 0.)
    g[4:] = 0                                                               # no gradient: only a change of 0 is reached
    t = exact_time(f, x, g, df)
    assert torch.allclose(t[:2], df[:2].atanh(), rtol=1e-13) and t[2].isnan() and t[3] == 0 and t[4].isnan() and t[5] == 0


def test_exact_time_of_each_image_is_that_of_the_image_alone():
    net, x, c = smooth(), pictures(4), torch.tensor([0, 1, 2, 3])
    f, g = value_and_gradient(net, x, c)
    df = tensor(.05, -.02, .001, .1)
    t = exact_time(explained(net, c), x, g, df)
    assert torch.allclose(explained(net, c)(x + t.view(-1, 1, 1, 1)*g), f + df, rtol=1e-13)
    for i in range(4): assert torch.allclose(exact_time(explained(net, c[i:i+1]), x[i:i+1], g[i:i+1], df[i:i+1]), t[i:i+1], rtol=1e-11)


def test_orders_of_the_series_on_a_smooth_network():
    net, x, c, dx = smooth(), pictures(3), torch.tensor([0, 4, 2]), pictures(3, seed=1)
    f = explained(net, c)
    y, g = value_and_gradient(net, x, c)
    D, lengths, errors = derivatives(f, x, g, 3), 2.**-np.arange(3, 8), []
    for s in lengths:
        df = predict(net, x + s*dx).softmax(1).gather(1, c[:, None])[:, 0] - y
        errors.append((ray_time(D, df) - exact_time(f, x, g, df)).abs())
    errors = torch.stack(errors)
    for k in range(3): assert slope(lengths, errors[:, k]) == pytest.approx(k+2, abs=.25)


def test_construction_lies_on_the_ray_and_the_level_set():
    x, end = tensor(-.2, .3, .1, 1.1).view(2, 2), tensor(1.2, .2, .9, .4).view(2, 2)
    c = construction(landscape, x, end)
    assert torch.allclose(landscape(c.exact), landscape(end), rtol=1e-13)
    for p in (c.exact, c.first, c.second): assert ((p - x)[:, 0]*c.g[:, 1] - (p - x)[:, 1]*c.g[:, 0]).abs().max() < 1e-14
    assert torch.allclose(dot(c.first - x, c.g), landscape(end) - landscape(x))
    near = construction(landscape, x, x + .01*(end - x))
    first, second = ((p - near.exact).norm(dim=1) for p in (near.first, near.second))
    assert (second < .1*first).all()
    with pytest.raises(InputError, match='one shape'): construction(landscape, x, end[:1])


def test_split_adds_up_and_what_is_across_moves_attribution_only():
    g, dx = pictures(3), pictures(3, seed=1)
    along, across = split(g, dx)
    assert torch.allclose(along + across, g*dx) and dot(across, torch.ones_like(g)).abs().max() < 1e-12
    assert torch.allclose(along, idgi(g, dx, dot(g, dx)))
    assert torch.allclose(split(g, 3*g)[1], torch.zeros_like(g), atol=1e-14)
    assert torch.allclose(split(1e-30*g.float(), dx.float())[0], 1e-30*along.float(), rtol=1e-4, atol=0)


# -- the rule of second order

def plain(g, h, d):
    "The rule for one image, as the notebook derives it."
    n2 = (g*g).sum()
    q = (g*h).sum()*d/(2*n2**2)
    if 1 + 4*q < 0: return g*g*d/n2
    t = d/n2*2/(1 + (1 + 4*q).sqrt())
    if t.abs()/2*h.norm() > g.norm(): return g*g*d/n2
    return t*g*g + t**2/2*g*h

@pytest.mark.parametrize('size', [.01, .3, 1., 10.])
def test_rule_is_the_formula_in_and_out_of_range(size):
    g, h, df = pictures(40), size*pictures(40, seed=1)*pictures(40, seed=2), pictures(40, 1, 1, 1, seed=3).flatten()*60
    a = ray_segment(g, df, h)
    assert torch.allclose(a, torch.stack([plain(*v) for v in zip(g, h, df)]), rtol=1e-9, atol=1e-12)
    assert torch.allclose(dot(a, torch.ones_like(a)), df) and torch.allclose(second_order(g, None, df, h), a, rtol=1e-12)


def test_rule_is_exact_where_gradients_change_linearly():
    A = tensor(2, .5, 0, .5, -1, .3, 0, .3, .7).view(3, 3)
    f = lambda p: .5*torch.einsum('bi,ij,bj->b', p.flatten(1), A, p.flatten(1))
    x, df = tensor(1, .4, -.6, -.2, 1, 1).view(2, 1, 1, 3), tensor(.4, -.1)
    g = x @ A
    t = exact_time(f, x, g, df).view(-1, 1, 1, 1)
    assert torch.allclose(ray_segment(g, df, g @ A), t*g*g + t**2/2*g*(g @ A), rtol=1e-11)


def test_rule_is_one_order_closer_to_the_ray_than_idgi():
    net, x, c, dx = smooth(), pictures(3), torch.tensor([0, 4, 2]), pictures(3, seed=1)
    f = explained(net, c)
    y, g = value_and_gradient(net, x, c)
    h, lengths, errors = hessian_vector(f, x, g), 2.**-np.arange(3, 8), []
    for s in lengths:
        df = f(x + s*dx).detach() - y
        t, (z, w) = exact_time(f, x, g, df).view(-1, 1, 1, 1), np.polynomial.legendre.leggauss(8)
        truth = sum(wi/2*t*g*value_and_gradient(net, x + t*(zi+1)/2*g, c)[1] for zi, wi in zip(z, w))
        errors.append(torch.stack([(a - truth).flatten(1).norm(dim=1) for a in (idgi(g, None, df), ray_segment(g, df, h))]))
    errors = torch.stack(errors)
    assert slope(lengths, errors[:, 0]) == pytest.approx(2, abs=.25) and slope(lengths, errors[:, 1]) == pytest.approx(3, abs=.25)


@pytest.mark.parametrize('dtype', [torch.float32, torch.float64], ids=str)
def test_no_gradient_is_worth_nothing_and_tiny_ones_do_not_vanish(dtype):
    g, h, df = pictures(3).to(dtype), pictures(3, seed=1).to(dtype), tensor(.2, -.3, 0).to(dtype)
    g[0] = 0
    a = ray_segment(g, df, h)
    assert a[0].eq(0).all() and a[2].eq(0).all() and a.isfinite().all()
    assert not torch.allclose(a[1], idgi(g, None, df)[1], rtol=1e-3)
    tiny = ray_segment(1e-15*g, 1e-15*df, 1e-30*h)                   # the score times 1e-15; its fourth powers would vanish
    assert torch.allclose(tiny*1e15, a, rtol=1e-4, atol=1e-7)


def test_a_broken_hessian_is_not_hidden():
    g = pictures(2)
    h = torch.stack([g[0], g[1]*torch.nan])
    a = ray_segment(g, tensor(.1, .1), h)
    assert a[0].isfinite().all() and a[1].isnan().any()


# -- in the walk

def by_hand(net, x, c, path, n, protocol='corrected', score=probability):
    "The sum over one image's walk, with the whole Hessian; for paths whose points are the network's own input."
    def see(xs):
        f, g = value_and_gradient(net, xs.flatten(0, 1), c.repeat(len(xs)), score)
        return f.view(xs.shape[:2]), g.view_as(xs)
    points, total = list(path.visit(Look(see, lambda xs: see(xs)[0]), x, n, protocol)), 0
    for p, q in zip(points, points[1:]):
        if q.f is None: continue                             # the end of the published protocol, which nobody looks at
        H = torch.autograd.functional.hessian(lambda v: score(net(v[None]), c)[0], p.x[0].to(x)).view(x.numel(), -1)
        total = total + plain(p.g[0], (H @ p.g[0].flatten()).view_as(p.g[0]), (q.f - p.f)[0])
    return path.sign*total

@paths
@pytest.mark.parametrize('protocol', ['corrected', 'published'])
def test_attribution_is_the_sum_with_the_whole_hessian(path, protocol):
    "On BlurIG's path, too, the ray goes to the score at the segment's end; the sign of the path comes last."
    net, x, c = smooth(), pictures(1, 3, 5, 5), torch.tensor([2])
    a = attribute(net, x, c, path, (4,), (riemann, second_order), protocol)['second_order', 4]
    assert torch.allclose(a[0], by_hand(net, x, c, path, 4, protocol), rtol=1e-8, atol=1e-13)


@paths
def test_attribution_is_complete_whatever_n_and_batches_change_nothing(path):
    net, x, c = smooth(), pictures(3), torch.tensor([0, 1, 2])
    a = attribute(net, x, c, path, (2, 8), (idgi, second_order))
    start, end = path.ends(x)
    change = probability(predict(net, end), c) - probability(predict(net, start), c)
    for n in (2, 8):
        assert torch.allclose(dot(a['second_order', n], torch.ones_like(x)), change, rtol=1e-9)
        assert not torch.allclose(a['second_order', n], a['idgi', n], rtol=1e-4)
    small = attribute(net, x, c, path, (8,), (second_order,), batch_size=2)['second_order', 8]
    assert torch.allclose(small, a['second_order', 8], rtol=1e-9, atol=1e-14)
    for i in range(3):
        alone = attribute(net, x[i:i+1], c[i:i+1], path, (8,), (second_order,))['second_order', 8]
        assert torch.allclose(alone[0], a['second_order', 8][i], rtol=1e-9, atol=1e-14)


def test_guided_path_in_pixels_takes_the_hessian_in_pixels():
    "With one scale for all channels the units of the space that is moved in cancel."
    net, x, c = smooth(), pictures(2), torch.tensor([0, 1])
    a, b = (attribute(net, x, c, GuidedPath(-1., normalize=norm), (6,), (second_order,))['second_order', 6]
            for norm in (None, ((.5,)*3, (.25,)*3)))
    assert torch.allclose(a, b, rtol=1e-7, atol=1e-12)


def test_linear_and_flat_functions():
    x = image(1., 2.)
    a = attribute(Function(lambda p, q: 2*p - q), x, torch.tensor([0]), StraightPath(0.), (3,), (idgi, second_order), score=logit)
    assert torch.allclose(a['second_order', 3], a['idgi', 3])
    flat = attribute(Function(lambda p, q: (p - 5).relu() + (q - 5).relu()), x, torch.tensor([0]), StraightPath(0.), (3,),
                     (second_order,), score=logit)
    assert flat['second_order', 3].eq(0).all()


def test_captum_style_class_and_a_walk_without_hessians():
    class SecondOrder(PathMethod):
        rule = second_order
        def path(self, baselines): return StraightPath(baselines)
    net, x, c = smooth(), pictures(2), torch.tensor([0, 1])
    for p in net.parameters(): p.requires_grad_(True)
    a, delta = SecondOrder(net).attribute(x, -1., c, n_steps=5, return_convergence_delta=True)
    assert torch.equal(a, attribute(net, x, c, StraightPath(-1.), (5,), (second_order,))['second_order', 5]) and delta.abs().max() < 1e-12
    assert all(p.grad is None and p.requires_grad for p in net.parameters())
    seen = []
    net.register_forward_pre_hook(lambda m, v: seen.append(len(v[0])))
    attribute(net, x, c, StraightPath(-1.), (5,), (riemann, idgi))
    assert sum(seen) == 12                                        # 5 gradients and the end, for two images


# -- what n does

def turning(p, q): return (6*p*p + 6*q - 6).sigmoid()

def distances(f, steps, N=4096):
    "By rule and n, the distance to the rule's own limit on the way from (0, 0) to (1, 1), relative to it."
    rules = riemann, idgi, trapezoid_idgi, trapezoid
    limits = dict(riemann='riemann_trapezoid', idgi='idgi_trapezoid', idgi_trapezoid='idgi_trapezoid')
    a = attribute(Function(f), image(1., 1.), torch.tensor([0]), StraightPath(0.), (*steps, N), rules, score=logit, batch_size=512)
    return {r: np.array([((a[r, n] - a[limit, N]).norm()/a[limit, N].norm()).item() for n in steps]) for r, limit in limits.items()}


@pytest.mark.parametrize('path', [StraightPath(-1.), GuidedPath(-1.)], ids=['straight', 'guided'])
def test_idgi_is_exact_with_one_segment_where_the_gradient_never_turns_and_ig_is_not(path):
    w = tensor(3., -1., 2.)
    f = Function(lambda *v: (sum(a*b for a, b in zip(w, v)) - 1).sigmoid())
    x = image(1., .5, -.3)
    start, end = path.ends(x)
    maps = attribute(f, x, torch.tensor([0]), path, (1, 2, 5), (riemann, idgi), score=logit)
    exact = w**2/(w*w).sum()*(f(end) - f(start))
    for n in (1, 2, 5):
        assert torch.allclose(maps['idgi', n].flatten(), exact.flatten(), rtol=1e-12)
        assert abs(maps['riemann', n].sum() - exact.sum()) > .01*exact.sum().abs()


def test_idgi_needs_more_steps_than_ig_where_weights_turn_while_f_rises_and_fewer_where_the_ends_differ():
    rise, ends = distances(turning, (8, 16, 32, 64)), distances(lambda p, q: (3*p).exp() + (2*q).exp(), (8, 16, 32, 64))
    assert (rise['idgi'] > 5*rise['riemann']).all() and (ends['riemann'] > 5*ends['idgi']).all()


@pytest.mark.parametrize('f', [turning, lambda p, q: (3*p).exp() + (2*q).exp()], ids=['sigmoid', 'exponential'])
def test_trapezoid_idgi_is_of_second_order_where_f_is_smooth(f):
    steps = (16, 32, 64, 128)
    found = distances(f, steps)
    slopes = {r: np.polyfit(np.log(steps), np.log(e), 1)[0] for r, e in found.items()}
    assert slopes['idgi'] == pytest.approx(-1, abs=.1) and slopes['idgi_trapezoid'] == pytest.approx(-2, abs=.1)


@paths
def test_trapezoid_idgi_is_complete_and_converges_to_idgi(path):
    net, x, c = smooth(), pictures(2), torch.tensor([0, 1])
    a = attribute(net, x, c, path, (2, 64), (idgi, trapezoid_idgi))
    start, end = path.ends(x)
    change = probability(predict(net, end), c) - probability(predict(net, start), c)
    for n in (2, 64): assert torch.allclose(dot(a['idgi_trapezoid', n], torch.ones_like(x)), change, rtol=1e-9)
    near, far = ((a['idgi_trapezoid', n] - a['idgi', n]).norm() for n in (64, 2))
    assert near < far/4


@pytest.mark.parametrize('score', [probability, logit])
def test_left_minus_trapezoid_is_the_leading_error_over_n(score):
    "N times the difference of one fine walk's two sums predicts n times the error at another n."
    net, x, c, N, n = smooth(), pictures(2), torch.tensor([0, 1]), 1024, 64
    a = attribute(net, x, c, StraightPath(-1.), (n, N), (riemann, idgi, trapezoid, trapezoid_idgi), score=score)
    for rule, limit in (('riemann', 'riemann_trapezoid'), ('idgi', 'idgi_trapezoid')):
        lead, error = N*(a[rule, N] - a[limit, N]), n*(a[rule, n] - a[limit, N])
        assert (error - lead).norm() < .05*lead.norm()


# -- where the gradient is zero

def hinge(p, q): return (p + q - 1).relu()

def test_idgi_loses_the_change_of_segments_that_start_without_a_gradient():
    steps = (1, 2, 3, 5, 9)
    a = attribute(Function(hinge), image(1., 1.), torch.tensor([0]), StraightPath(0.), steps, (idgi, trapezoid_idgi), score=logit)
    for n in steps:
        f = [max(2*j/n - 1, 0) for j in range(n+1)]
        lost = sum(f[j+1] - f[j] for j in range(n) if 2*j <= n)              # at the kink itself the gradient is zero, too
        assert lost > 0 and a['idgi', n].sum().item() == pytest.approx(1 - lost, abs=1e-12)
        assert a['idgi_trapezoid', n].sum().item() == pytest.approx(1, abs=1e-12)


def test_trapezoid_idgi_loses_a_segment_only_if_both_ends_have_no_gradient():
    g, flat, df = pictures(1), torch.zeros(1, 3, 8, 8, dtype=torch.float64), tensor(.5)
    def worth(a, b):
        p, q = Point(0., flat, tensor(0.), a), Point(1., flat, df, b)
        trapezoid_idgi.add(total := torch.zeros_like(flat), Segment(p, q, 1))
        return total
    assert torch.allclose(worth(flat, g), idgi(g, None, df)) and torch.allclose(worth(g, flat), idgi(g, None, df))
    assert worth(flat, flat).eq(0).all()


def test_a_float32_softmax_that_is_saturated_has_no_gradient_and_idgi_loses_the_way_from_there():
    "Walked from the image, whose other classes' probabilities underflow; the network's own logits lose nothing."
    class Margin(torch.nn.Module):
        def __init__(self, k): super().__init__(); self.k = k
        def forward(self, x): return self.k*torch.stack([x.sum((1, 2, 3)), 0*x.sum((1, 2, 3))], 1)
    x, c, path = torch.tensor([[[[4., 0.], [0., 0.]]]]), torch.tensor([0]), StraightPath(torch.tensor([[[[-4., -1.], [0., 0.]]]]))
    def shortfall(k, score, **how):
        start, end = path.ends(x)
        change = score(predict(Margin(k), start), c) - score(predict(Margin(k), end), c)
        back = StraightPath(start)
        return change.item() - attribute(Margin(k), start, c, StraightPath(end), (2,), score=score, **how)['idgi', 2].sum().item()
    assert abs(shortfall(1., probability)) < 1e-6 and abs(shortfall(40., probability)) > .9
    assert abs(shortfall(40., contrast)) < 1e-3


def test_a_float32_softmax_that_rounds_to_1_gives_idgi_wrong_weights_and_float64_right_ones():
    "The gradient lacks the class's own logit, because f (1 - f) is zero."
    net, x, c = smooth().float(), pictures(1).float(), torch.tensor([0])
    class Sure(torch.nn.Module):
        def __init__(self): super().__init__(); self.net = net
        def forward(self, x): return self.net(x) + torch.tensor([25., 0, 0, 0, 0]).to(x)
    def precise(z, c): return probability(z.double(), c).to(z)
    (f, g), (_, good) = (value_and_gradient(Sure(), x, c, score) for score in (probability, precise))
    right = value_and_gradient(Sure().double(), x.double(), c)[1]
    one = torch.ones(1)
    assert f.item() == 1 and g.abs().max() > 0
    assert torch.allclose(idgi(good, None, one).double(), idgi(right, None, one.double()), rtol=1e-3, atol=1e-6)
    assert (idgi(g, None, one).double() - idgi(right, None, one.double())).norm() > .1*idgi(right, None, one.double()).norm()

"What attributions are worth: axioms, known integrals, brute force, Captum, invariances, memory, and what cannot be used."
import gc

import pytest, torch
from captum.attr import IntegratedGradients as CaptumIG
from hypothesis import given, settings, strategies as st
from torch import nn

from idgi_repro.method.attribution import BlurIG, GuidedIG, IDGI, IntegratedGradients, NotFinite, attribute, saliency
from idgi_repro.method.rules import idgi, riemann
from idgi_repro.errors import InputError
from idgi_repro.method.gradients import contrast, logit, predict, probability
from idgi_repro.study.models import load
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.paths import BlurPath, StraightPath
import reference
from reference import Function, image, pictures, smooth

BLACK, MEAN, STD = -1., (.5, .4, .6), (.25, .5, 2.)
PATHS = dict(straight=lambda: StraightPath(BLACK), guided=lambda: GuidedPath(BLACK), blur=lambda: BlurPath(4.),
             displaced=lambda: BlurPath(4., None))
paths = pytest.mark.parametrize('path', [p() for p in PATHS.values()], ids=list(PATHS))
fast = settings(max_examples=6, deadline=None, derandomize=True, database=None)

def classes(b): return torch.arange(b) % 5

def change(model, x, c, path, score=probability):
    start, end = path.ends(x)
    return score(predict(model, end), c) - score(predict(model, start), c)

def relative(a, b): return ((a - b).norm()/b.norm()).item()


# -- completeness

@paths
@pytest.mark.parametrize('score', [probability, logit, contrast])
@pytest.mark.parametrize('n', [1, 2, 5, 16])
def test_idgi_is_complete_on_the_corrected_protocol_at_every_n(path, score, n):
    net, x, c = smooth(), pictures(3), classes(3)
    a = attribute(net, x, c, path, (n,), (idgi,), score=score)['idgi', n]
    expected = change(net, x, c, path, score)
    assert expected.abs().min() > 1e-5 and torch.allclose(a.sum((1, 2, 3)), expected, rtol=1e-9, atol=1e-14)


@paths
def test_riemann_is_complete_up_to_an_error_that_shrinks_with_n(path):
    net, x, c = smooth(), pictures(3), classes(3)
    maps, expected = attribute(net, x, c, path, (16, 128, 512), (riemann,)), change(net, x, c, path)
    coarse, fine, finest = (((maps['riemann', n].sum((1, 2, 3)) - expected).norm()/expected.norm()).item() for n in (16, 128, 512))
    assert fine < coarse/4 and finest < .02, (coarse, fine, finest)


@pytest.mark.parametrize('make,baselines', [(IntegratedGradients, BLACK), (GuidedIG, BLACK), (lambda m: BlurIG(m, max_sigma=4.), None)],
                         ids=['IG', 'GIG', 'BlurIG'])
def test_convergence_delta_is_the_shortfall_and_idgi_has_none(make, baselines):
    net, x, c = smooth(), pictures(2), classes(2)
    method = make(net)
    a, delta = method.attribute(x, baselines, c, n_steps=8, return_convergence_delta=True)
    assert torch.allclose(delta, a.sum((1, 2, 3)) - change(net, x, c, method.path(baselines))) and delta.abs().min() > 1e-4
    assert IDGI(method).attribute(x, baselines, c, n_steps=8, return_convergence_delta=True)[1].abs().max() < 1e-12


# -- functions with known integrals

def explained(f, x, path, n, rule=riemann):
    return attribute(Function(f), x, torch.tensor([0]), path, (n,), (rule,), score=logit)[rule.name, n].flatten().tolist()

def f_relu(a, b): return (a.relu() - 1 - b.relu()).relu()
def g_relu(a, b): return ((a - 1).relu() - b.relu()).relu()
def one_relu(a): return 1 - (1 - a).relu()
SIN = torch.sin(torch.tensor([3., 1.])).tolist()

@pytest.mark.parametrize('f,x,baseline,expected', [
    (lambda a, b, c: 5*a + b**2 + c.sin(), (1., 2., 3.), (.5, 1., 1.), [2.5, 3, SIN[0] - SIN[1]]),
    (f_relu, (3., 1.), (0., 0.), [1.5, -.5]), (g_relu, (3., 1.), (0., 0.), [1.5, -.5]),
    (one_relu, (1.,), (0.,), [1]), (one_relu, (0.,), (0.,), [0]), (one_relu, (-1.,), (0.,), [-1])],
    ids=['PAIR', 'Captum f', 'Captum g', 'Captum 1', 'Captum 0', 'Captum -1'])
def test_integrated_gradients_of_pairs_and_captums_functions(f, x, baseline, expected):
    assert explained(f, image(*x), StraightPath(image(*baseline)), 1000) == pytest.approx(expected, abs=.005)


def linear(a, b): return 2*a + b
def independent(a, b): return 2*a**2 + b**2
def dependent(a, b): return (2*a + b)**2

@pytest.mark.parametrize('f,x,baseline,max_dist,fraction,expected,rel', [
    (linear, (10., 5.), (-1., -3.), .5, .1, [22, 8], 1e-7), (linear, (10., 5.), (0., 0.), .5, .1, [20, 5], 1e-7),
    (independent, (3., 3.), (0., 0.), .4, .1, [18, 9], .01),
    (dependent, (3., 3.), (0., 0.), 0., .1, [54, 27], .01), (dependent, (3., 3.), (0., 0.), .5, 1., [54, 27], .01),
    (dependent, (3., 3.), (0., 0.), 1., .1, [72, 9], .01)],
    ids=['linear', 'linear from 0', 'independent', 'on the line', 'all move', 'unbound'])
def test_guided_ig_of_pairs_functions(f, x, baseline, max_dist, fraction, expected, rel):
    n = 10 if f is linear else 300
    assert explained(f, image(*x), GuidedPath(image(*baseline), fraction, max_dist), n) == pytest.approx(expected, rel=rel)


def test_bounded_guided_ig_lies_between_unbound_and_straight():
    a, b = explained(dependent, image(3., 3.), GuidedPath(0., .1, .2), 1000)
    assert a + b == pytest.approx(81, abs=.1) and 55 < a < 71 and 10 < b < 26


@pytest.mark.parametrize('grad_step', [.01, None])
def test_blur_ig_of_pairs_function(grad_step):
    x = torch.zeros(1, 1, 5, 5, dtype=torch.float64)
    x[0, 0, 1, 1], x[0, 0, 2, 2] = .7, 1.
    path = BlurPath(10., grad_step)
    got = attribute(Function(lambda *v: sum(u.sin() for u in v)), x, torch.tensor([0]), path, (2000,), (riemann,),
                    score=logit)['riemann', 2000]
    assert (got - (x.sin() - path.ends(x)[0].sin())).abs().max() < .015 and (got != 0).all() and got.argmax() == 12


@paths
def test_a_linear_function_is_explained_exactly_by_one_segment(path):
    if getattr(path, 'grad_step', None): pytest.skip('the difference quotient at no blur is zero by construction')
    w, x = torch.tensor([1., -2, 3, .5], dtype=torch.float64), image(3., 1., -2., 4.)
    start, end = path.ends(x)
    got = explained(lambda *v: sum(a*b for a, b in zip(w, v)), x, path, 1)
    assert got == pytest.approx((w*(end - start).flatten()).tolist(), abs=1e-9)


def test_idgi_of_a_linear_function_shares_the_change_by_squared_weight():
    assert explained(linear, image(3., 4.), StraightPath(0.), 7, idgi) == pytest.approx([10*4/5, 10*1/5])


# -- axioms

@paths
@pytest.mark.parametrize('rule', [riemann, idgi])
def test_two_networks_that_compute_one_function_get_one_attribution(path, rule):
    "The second network folds the first's last two layers' scale back and forth and sums its hidden units in another order."
    net, x, c = smooth(), pictures(2), classes(2)
    twin, order = smooth(), torch.tensor([3, 0, 5, 1, 4, 2])
    with torch.no_grad():
        for a in (twin[0].weight, twin[0].bias): a.copy_(a[order])
        last = twin[-1].weight
        last.copy_(last.view(5, 6, 16)[:, order].flatten(1)/8)
    twin = nn.Sequential(*twin[:-1], Times(8.), twin[-1])
    a, b = (attribute(m, x, c, path, (8,), (rule,))[rule.name, 8] for m in (net, twin))
    assert relative(a, b) < 1e-9

class Times(nn.Module):
    def __init__(self, k): super().__init__(); self.k = k
    def forward(self, x): return self.k*x


both = pytest.mark.parametrize('path', [StraightPath(0.), GuidedPath(0.)], ids=['straight', 'guided'])

def mixed(a, b, c): return a.exp()*(1 + b + c) - 1                # depends on all three, and on b and c where they do not move

@both
def test_sensitivity_with_ig_the_one_feature_that_differs_gets_it_all(path):
    assert explained(mixed, image(1., 0., 0.), path, 400) == pytest.approx([torch.e - 1, 0, 0], rel=.01)


@both
def test_sensitivity_with_idgi_features_that_do_not_differ_get_a_share(path):
    "Here g is exp(a) in all three directions, so each feature gets a third of the change, whatever the path moves."
    assert explained(mixed, image(1., 0., 0.), path, 400, idgi) == pytest.approx([(torch.e - 1)/3]*3)


@both
@pytest.mark.parametrize('rule', [riemann, idgi])
def test_the_one_feature_that_matters_gets_it_all(path, rule):
    assert explained(lambda a, b, c: a.exp() - 1, image(1., 2., -1.), path, 400, rule) == pytest.approx([torch.e - 1, 0, 0], rel=.01)


def test_ig_is_linear_in_the_function_and_idgi_is_not():
    f, g, x = (lambda a, b: 2*a + 0*b), (lambda a, b: b + 0*a), image(1., 1.)
    def parts_and_sum(rule): return [explained(h, x, StraightPath(0.), 7, rule) for h in (f, g, lambda a, b: f(a, b) + g(a, b))]
    a, b, whole = parts_and_sum(riemann)
    assert [u + v for u, v in zip(a, b)] == pytest.approx(whole) and whole == pytest.approx([2, 1])
    a, b, whole = parts_and_sum(idgi)
    assert [u + v for u, v in zip(a, b)] == pytest.approx([2, 1]) and whole == pytest.approx([2.4, .6])


@pytest.mark.parametrize('k', [2., 10.])
def test_ig_does_not_depend_on_a_features_unit_and_idgi_does(k):
    "The second feature is written in a unit k times smaller."
    x, rescaled, f = image(1., 1.), image(1., k), lambda a, b: a + b
    def maps(rule): return tuple(explained(h, v, StraightPath(0.), 4, rule) for h, v in ((f, x), (lambda a, b: f(a, b/k), rescaled)))
    assert maps(riemann) == (pytest.approx([1, 1]), pytest.approx([1, 1]))
    assert maps(idgi) == (pytest.approx([1, 1]), pytest.approx([2*k**2/(k**2 + 1), 2/(k**2 + 1)]))


@pytest.mark.parametrize('std,same', [((.5, .5, .5), True), (STD, False)], ids=['one unit', 'unequal'])
def test_normalised_and_pixel_space_have_one_ig_map_and_one_idgi_map_only_if_the_channels_share_a_unit(std, same):
    class InPixels(nn.Module):
        def __init__(self, net): super().__init__(); self.net = net
        def forward(self, p): return self.net((p - mean)/std)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, std))
    net, x, c = smooth(), pictures(2), classes(2)
    black = (0 - mean)/std
    a = attribute(net, x, c, StraightPath(black[None]), (8,))
    b = attribute(InPixels(net), x*std + mean, c, StraightPath(0.), (8,))
    assert relative(b['riemann', 8], a['riemann', 8]) < 1e-9
    assert (relative(b['idgi', 8], a['idgi', 8]) < 1e-9) == same and (same or relative(b['idgi', 8], a['idgi', 8]) > .1)


@paths
@pytest.mark.parametrize('rule', [riemann, idgi])
def test_features_that_the_network_ignores_get_exactly_zero(path, rule):
    class Ignores(nn.Module):
        def __init__(self): super().__init__(); self.net = smooth(2)
        def forward(self, x): return self.net(x[:, :2])
    a = attribute(Ignores(), pictures(2), classes(2), path, (6,), (rule,))[rule.name, 6]
    assert (a[:, 2] == 0).all() and (a[:, :2] != 0).any()


@paths
@pytest.mark.parametrize('protocol', ['corrected', 'published'])
def test_a_constant_network_has_zero_gradient_and_zero_attribution(path, protocol):
    class Constant(nn.Module):
        def forward(self, x): return 0*x.mean((2, 3)) + 1
    maps = attribute(Constant(), pictures(2), torch.tensor([0, 1]), path, (2, 4), protocol=protocol)
    assert all((a == 0).all() for a in maps.values())


def test_idgi_gives_zero_where_the_gradient_is_zero_and_neither_overflows_nor_underflows():
    g, df = torch.tensor([0., 1e-30, 1e30]).view(3, 1, 1, 1).expand(3, 1, 2, 2), torch.tensor([3., 4., 8.])
    assert torch.allclose(idgi(g, g, df), torch.tensor([0., 1, 2]).view(3, 1, 1, 1).expand(3, 1, 2, 2))


@pytest.mark.parametrize('make', [StraightPath, GuidedPath], ids=['straight', 'guided'])
@pytest.mark.parametrize('protocol', ['corrected', 'published'])
def test_a_baseline_equal_to_the_image_explains_nothing(make, protocol):
    x = pictures(2)
    assert all(a.abs().max() < 1e-12 for a in attribute(smooth(), x, classes(2), make(x), (4,), protocol=protocol).values())


def test_a_constant_image_is_its_own_blur():
    x = torch.full((1, 3, 8, 8), .3, dtype=torch.float64)
    assert all(a.abs().max() < 1e-12 for a in attribute(smooth(), x, classes(1), BlurPath(4.), (4,)).values())


# -- every shape and number

@paths
@pytest.mark.parametrize('shape', [(1, 3, 8, 8), (3, 3, 8, 8), (2, 3, 5, 12), (2, 1, 9, 6)], ids=str)
@pytest.mark.parametrize('batch_size', [1, 2, 64])
def test_any_shape_and_batch_is_explained_as_image_by_image(path, shape, batch_size):
    "One image, a batch that does not divide the internal batch, images that are not square, one channel."
    net, x, c = smooth(shape[1]), pictures(*shape), classes(shape[0])
    maps = attribute(net, x, c, path, (1, 4), batch_size=batch_size)
    for k, a in maps.items():
        alone = torch.cat([attribute(net, x[i:i+1], c[i:i+1], path, (k[1],))[k] for i in range(len(x))])
        assert a.shape == x.shape and torch.allclose(a, alone, rtol=1e-8, atol=1e-12) and (k[1] == 1 or a.abs().max() > 1e-6)


@paths
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('protocol', ['corrected', 'published'])
def test_attributions_have_the_images_dtype(path, dtype, protocol):
    maps = attribute(smooth().to(dtype), pictures(2).to(dtype), classes(2), path, (4,), protocol=protocol)
    assert {a.dtype for a in maps.values()} == {dtype}


def test_saliency_sums_the_channels_with_their_signs():
    a = torch.tensor([[1., -3, 5]]).view(1, 3, 1, 1).expand(2, 3, 4, 5)
    assert torch.equal(saliency(a), torch.full((2, 4, 5), 3.)) and saliency(a[None]).shape == (1, 2, 4, 5)


# -- brute force

@pytest.mark.parametrize('protocol', ['corrected', 'published'])
@pytest.mark.parametrize('kind', ['straight', 'blur', 'guided'])
def test_maps_are_those_of_a_plain_loop_over_the_methods_points(kind, protocol):
    "IG on the published protocol takes the gradient at a segment's end for the Riemann sum and at its start for IDGI; N is 8."
    net, x, c = smooth(), pictures(2, 3, 20, 24), torch.tensor([3, 1])
    black = pictures(2, 3, 20, 24, seed=1)
    path = dict(straight=StraightPath(black), blur=BlurPath(4.5), guided=GuidedPath(black, normalize=(MEAN, STD)))[kind]
    maps = attribute(net, x, c, path, (2, 4, 8), protocol=protocol, batch_size=3)
    for n in (2, 4, 8):
        for i in range(2):
            if kind == 'straight': plain = reference.straight(net, x[i], black[i], c[i], n, 8, protocol)
            elif kind == 'blur': plain = reference.blur(net, x[i], c[i], n, 8, protocol, 4.5)
            else: plain = reference.guided(net, x[i], black[i], c[i], n, protocol, MEAN, STD)
            for rule, expected in zip(('riemann', 'idgi'), plain): assert relative(maps[rule, n][i], expected) < 1e-8, (rule, n, i)


def test_the_protocols_differ():
    net, x, c = smooth(), pictures(1), classes(1)
    for p in PATHS.values():
        a, b = (attribute(net, x, c, p(), (8,), (idgi,), protocol=g)['idgi', 8] for g in ('corrected', 'published'))
        assert relative(a, b) > 1e-3


# -- Captum

class Softmax(nn.Module):
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x): return self.net(x).softmax(1)

def conv_net():
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        return nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(),
                             nn.LazyLinear(10)).double().eval()

@pytest.mark.parametrize('make,side,n', [(conv_net, 12, 50), (lambda: load('mini_resnet').module.double(), 64, 12)],
                         ids=['conv', 'mini_resnet'])
def test_captum_and_ours_agree_on_integrated_gradients(make, side, n):
    net, x, c = make(), pictures(3, 3, side, side), torch.tensor([4, 0, 9])
    black = pictures(1, 3, side, side, seed=1) - 1
    net(x)                                                     # a lazy layer takes its size
    ours, delta = IntegratedGradients(net).attribute(x, black, c, n_steps=n, return_convergence_delta=True)
    theirs, their_delta = CaptumIG(Softmax(net)).attribute(x, black.expand_as(x), target=c, n_steps=n, method='riemann_left',
                                                           return_convergence_delta=True)
    assert relative(ours, theirs) < 1e-5 and torch.allclose(delta, their_delta.to(delta), atol=1e-5*theirs.abs().sum().item())


def test_captums_calling_convention():
    net, x = smooth(), pictures(3)
    ig, guess = IntegratedGradients(net), predict(net, x).argmax(1)
    a = ig.attribute(x, baselines=0., target=guess, n_steps=4)
    for same in (ig.attribute(x, target=guess, n_steps=4), ig.attribute(x, n_steps=4),
                 ig.attribute(x, baselines=torch.zeros(1, 3, 8, 8), n_steps=4, internal_batch_size=2)):
        assert relative(same, a) < 1e-12
    assert torch.equal(ig.attribute(x, target=2, n_steps=4), ig.attribute(x, target=torch.tensor([2, 2, 2]), n_steps=4))


# -- invariances

images = st.tuples(st.integers(1, 4), st.integers(0, 99)).map(lambda v: pictures(v[0], seed=v[1]))
kinds = st.sampled_from(list(PATHS))
protocols = st.sampled_from(['corrected', 'published'])

@fast
@given(images, kinds, protocols, st.integers(1, 9))
def test_the_internal_batch_size_changes_nothing(x, kind, protocol, batch_size):
    net, c = smooth(), classes(len(x))
    a, b = (attribute(net, x, c, PATHS[kind](), (2, 6), protocol=protocol, batch_size=n) for n in (batch_size, 64))
    assert all(torch.allclose(a[k], b[k], rtol=1e-7, atol=1e-12) for k in a)


@fast
@given(images, kinds, protocols, st.randoms(use_true_random=False))
def test_permuting_the_batch_permutes_the_result(x, kind, protocol, random):
    net, c, order = smooth(), classes(len(x)), list(range(len(x)))
    random.shuffle(order)
    a, b = attribute(net, x, c, PATHS[kind](), (5,), protocol=protocol), attribute(net, x[order], c[order], PATHS[kind](), (5,),
        protocol=protocol)
    assert all(torch.allclose(a[k][order], b[k], rtol=1e-7, atol=1e-12) for k in a)


@fast
@given(images, kinds, st.lists(st.sampled_from([1, 2, 3, 4, 6, 12]), min_size=2, unique=True))
def test_step_counts_together_give_what_each_gives_alone(x, kind, steps):
    net, c = smooth(), classes(len(x))
    together = attribute(net, x, c, PATHS[kind](), steps)
    assert list(together) == [(r, n) for r in ('riemann', 'idgi') for n in steps]
    for n in steps:
        for k, a in attribute(net, x, c, PATHS[kind](), (n,)).items(): assert torch.allclose(together[k], a, rtol=1e-7, atol=1e-12)


@fast
@given(images, kinds, protocols, st.floats(.1, 10))
def test_scaling_the_logits_scales_their_attribution(x, kind, protocol, k):
    net, c = smooth(), classes(len(x))
    a, b = (attribute(m, x, c, PATHS[kind](), (6,), protocol=protocol, score=logit) for m in (net, nn.Sequential(net, Times(k))))
    assert all(torch.allclose(k*a[r], b[r], rtol=1e-6, atol=1e-10) for r in a)


def test_nested_step_counts_share_one_walk_and_others_take_their_own():
    "Counted in gradients, ticked off pass by pass."
    def gradients(path, steps, protocol='corrected'):
        ticks = []
        attribute(smooth(), pictures(2), classes(2), path, steps, protocol=protocol, tick=ticks.append)
        return sum(ticks)/2
    assert gradients(StraightPath(), (2, 4, 8)) == gradients(StraightPath(), (2, 4, 8), 'published') == 8
    assert gradients(BlurPath(2.), (3, 4, 8)) == 8 + 3 and gradients(GuidedPath(), (2, 4)) == 2 + 4


# -- memory

def held():
    "Bytes of the tensors that live now, each storage once."
    stores = {}
    for o in gc.get_objects():
        if type(o) in (torch.Tensor, nn.Parameter) and o.layout is torch.strided:
            stores[o.untyped_storage().data_ptr()] = o.untyped_storage().nbytes()
    return sum(stores.values())

@paths
def test_memory_of_a_walk_does_not_grow_with_n(path):
    net, x, c = smooth(), pictures(2, 3, 32, 32), classes(2)
    attribute(net, x, c, path, (256,))                         # the blur's matrices are built once and kept
    def peak(n):
        at, ticks = [], iter(range(n))
        def tick(_):
            if next(ticks) % (1 if n == 8 else 29) == 0: at.append(held())
        before = held()
        attribute(net, x, c, path, (n,), batch_size=8, tick=tick)
        return max(at) - before
    few, many = peak(8), peak(256)
    assert few > x.nbytes and many <= 1.1*few


# -- what cannot be used

def refused(said, x=None, target=None, path=None, net=None, **how):
    x = pictures(2) if x is None else x
    with pytest.raises(InputError, match=said) as e:
        attribute(net or smooth(), x, torch.tensor([0, 1]) if target is None else target, path or StraightPath(),
                  **dict(dict(steps=(4,)), **how))
    return e.value

class Sum(nn.Module):
    def forward(self, x): return x.sum((1, 2, 3))

def spoiled(value):
    x = pictures(3)
    x[1, 0, 2, 2] = value
    return x

@pytest.mark.parametrize('said,how', [
    ('5 classes', dict(target=torch.tensor([0, 5]))), ('5 classes', dict(target=torch.tensor([-1, 0]))),
    ('target must be 2', dict(target=torch.tensor([0, 1, 2]))), ('target must be 2', dict(target=torch.tensor([[0, 1]]))),
    ('target must be 2', dict(target=0.)), ('target must be 2', dict(target=torch.tensor([0., 1.]))),
    (r'images \[1\].*NaN', dict(x=spoiled(torch.nan), target=classes(3))),
    (r'images \[1\].*NaN', dict(x=spoiled(torch.inf), target=classes(3))),
    ('floating-point', dict(x=torch.zeros(2, 3, 8, 8, dtype=torch.uint8))), ('floating-point', dict(x=pictures(2)[0])),
    ('no images', dict(x=pictures(2)[:0], target=torch.zeros(0, dtype=torch.long))),
    ('do not divide', dict(steps=(3, 8), protocol='published')), ("'open'", dict(protocol='open')),
    ('steps', dict(steps=())), ('steps', dict(steps=(0,))), ('steps', dict(steps=(-4,))), ('steps', dict(steps=(2.5,))),
    ('does not fit', dict(path=StraightPath(torch.zeros(1, 1, 9, 9)))), ('does not fit', dict(path=GuidedPath(torch.zeros(3, 3, 8, 8)))),
    (r'returned \(2, 3, 8, 8\)', dict(net=nn.Identity(), batch_size=2)), ('one output', dict(net=Sum(), batch_size=2))])
def test_what_cannot_be_used_is_refused_with_its_name(said, how): refused(said, **how)


@pytest.mark.parametrize('protocol', ['corrected', 'published'])
@paths
def test_a_wrong_channel_count_is_named_and_the_network_restored(path, protocol):
    net = smooth().train()
    with pytest.raises(InputError, match='channels'): attribute(net, pictures(2, 4), classes(2), path, (4,), protocol=protocol)
    assert all(m.training for m in net.modules()) and all(p.requires_grad for p in net.parameters())


class Breaks(nn.Module):
    "NaN logits, or zero logits with a gradient that is not finite, for images that are far too bright."
    def __init__(self, how): super().__init__(); self.how, self.net = how, smooth()
    def forward(self, x):
        bad = (x.mean((1, 2, 3)) > 50)[:, None]
        if self.how == 'value': return torch.where(bad, torch.nan, self.net(x))
        return self.net(x)*torch.where(bad, 0*x[:, :1, 0, 0], 1.).sqrt()

@paths
@pytest.mark.parametrize('protocol', ['corrected', 'published'])
@pytest.mark.parametrize('how', ['value', 'gradient'])
def test_a_network_that_returns_nan_names_the_images(path, protocol, how):
    x = pictures(4, 3, 8, 8)
    x[1] += 200
    x[3] += 200
    with pytest.raises(NotFinite) as e: attribute(Breaks(how), x, classes(4), path, (4,), protocol=protocol)
    assert e.value.rows == [1, 3] and '[1, 3]' in str(e.value)


@pytest.mark.parametrize('how', [dict(target=torch.tensor([0, 1, 2])), dict(x=torch.zeros(2, 3, 8, 8, dtype=torch.uint8)),
                                 dict(x=pictures(2)[:0]), dict(x=spoiled(torch.nan)), dict(target=5), dict(protocol='open'),
                                 dict(n_steps=0)],
                         ids=['target shape', 'integer images', 'empty', 'nan', 'target', 'protocol', 'steps'])
@pytest.mark.parametrize('wrap', [lambda m: m, IDGI], ids=['IG', 'IDGI'])
def test_the_classes_refuse_what_attribute_refuses(how, wrap):
    how = dict(how)
    with pytest.raises(InputError): wrap(IntegratedGradients(smooth())).attribute(how.pop('x', pictures(2)), **how)


def test_blur_ig_takes_no_baseline_and_idgi_wraps_only_methods():
    with pytest.raises(InputError, match='baselines'): BlurIG(smooth()).attribute(pictures(1), baselines=0., target=0)
    with pytest.raises(InputError, match='IDGI wraps'): IDGI(smooth())


# -- devices

@pytest.mark.cuda
@paths
@pytest.mark.parametrize('protocol', ['corrected', 'published'])
def test_cpu_and_cuda_agree_in_float64(path, protocol):
    x, c = pictures(3, 3, 12, 16), classes(3)
    here = attribute(smooth(), x, c, path, (2, 8), protocol=protocol)
    there = attribute(smooth().cuda(), x.cuda(), c.cuda(), path, (2, 8), protocol=protocol)
    assert all(a.is_cuda and relative(a.cpu(), here[k]) < 1e-9 for k, a in there.items())


@pytest.mark.cuda
@pytest.mark.parametrize('dtype', [torch.float32, torch.float64])
@pytest.mark.parametrize('make', [IntegratedGradients, GuidedIG, BlurIG], ids=lambda m: m.__name__)
def test_the_classes_run_on_cuda_with_targets_and_baselines_from_the_cpu(make, dtype):
    net, x = smooth().to('cuda', dtype), pictures(2).to('cuda', dtype)
    how = {} if make is BlurIG else dict(baselines=torch.zeros(1, 3, 8, 8))
    for target in (None, 1, torch.tensor([0, 1])):
        a, delta = IDGI(make(net)).attribute(x, target=target, n_steps=4, return_convergence_delta=True, **how)
        assert a.is_cuda and a.dtype == dtype and delta.abs().max() < 1e-5


@pytest.mark.cuda
def test_guided_in_pixel_space_runs_on_cuda():
    x, c = pictures(2), classes(2)
    here, there = (attribute(smooth().to(d), x.to(d), c.to(d), GuidedPath(BLACK, normalize=(MEAN, STD)), (6,), protocol='published')
                   for d in ('cpu', 'cuda'))
    assert all(relative(there[k].cpu(), here[k]) < 1e-9 for k in here)

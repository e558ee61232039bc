"A device without float64, as Apple's MPS is one: everything is computed there in float32."
import pytest, torch
from torch import Tensor

from idgi_repro.errors import InputError
from idgi_repro.method.attribution import BlurIG, GuidedIG, IDGI, IntegratedGradients, attribute, saliency
from idgi_repro.method.diffid import diffid, diffid_of_maps
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.information import CURVES, area, information_curves
from idgi_repro.method.metrics import concentration, distance, energy_inside, insertion, patchiness, pointing, stability, step_lengths
from idgi_repro.method.paths import BlurPath, Quadrature, StraightPath
from idgi_repro.method.recalibration import AGI, ExpectedGradients, IGSG, IGSQ, IGUniform, ValidInterpolations
from idgi_repro.method.rules import absolute, along, idgi, riemann, second_order, squares, trapezoid, trapezoid_idgi
from idgi_repro.method.sensitivity import sensitivity_n
from reference import pictures, smooth


class Short(Tensor):
    "Lives where there is no float64, and where what comes from elsewhere stays short."
    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):
        found = super().__torch_function__(function, types, args, kwargs or {})
        for v in found if isinstance(found, (tuple, list)) else [found]:
            if isinstance(v, cls) and v.dtype == torch.float64: raise TypeError('this device does not support float64')
        return found

X, C = pictures(2).float(), torch.tensor([1, 3])
MASK = pictures(2)[:, 0] > 0
def short(t): return t.as_subclass(Short)
def net(): return smooth().float()
def close(a, b, tol=1e-3):
    return torch.allclose(a.as_subclass(Tensor).double(), b.double(), rtol=tol, atol=tol*b.double().abs().max().item())

PATHS = dict(straight=lambda: StraightPath(-1.), tensor=lambda: StraightPath(0*X[:1]), array=lambda: StraightPath(X[:1].double().numpy()*0),
             guided=lambda: GuidedPath(-1., .5), near=lambda: GuidedPath(-1., .25, .3),
             pixels=lambda: GuidedPath(-1., normalize=((.5,)*3, (.5,)*3)), known=lambda: GuidedPath(-1., normalize=((.5,)*3, (.5,)*3),
    pixels=(X + 1)/2), blur=lambda: BlurPath(3.), displaced=lambda: BlurPath(3., None))
RULES = (riemann, idgi, absolute, along, squares, trapezoid, trapezoid_idgi, second_order)

def test_the_device_has_no_float64():
    for wide in (lambda v: v.double(), lambda v: v.to(torch.float64), lambda v: torch.add(v, torch.ones(v.shape, dtype=torch.float64))):
        with pytest.raises(TypeError, match='float64'): wide(short(X))

@pytest.mark.parametrize('protocol', ['corrected', 'published'])
@pytest.mark.parametrize('path', PATHS.values(), ids=list(PATHS))
def test_every_path_and_rule(path, protocol):
    here, there = attribute(net(), X, C, path(), (4,), RULES, protocol), attribute(net(), short(X), C, path(), (4,), RULES, protocol)
    for k, v in there.items(): assert v.dtype == torch.float32 and close(v, here[k], .02), k

@pytest.mark.parametrize('method', ['riemann_middle', 'riemann_trapezoid', 'gausslegendre'])
@pytest.mark.parametrize('path', ['straight', 'blur'])
def test_every_quadrature(path, method):
    go = lambda x: attribute(net(), x, C, Quadrature(PATHS[path](), method), (5,), (riemann,))['riemann', 5]
    assert close(go(short(X)), go(X))

@pytest.mark.parametrize('make', [IntegratedGradients, GuidedIG, BlurIG, lambda m: IDGI(GuidedIG(m)),
                                  lambda m: IDGI(BlurIG(m, max_sigma=3.))], ids=['IG', 'GIG', 'BlurIG', 'GIG+IDGI', 'BlurIG+IDGI'])
def test_every_class(make):
    for target in (None, 1, [1, 3]):
        (a, delta), (b, other) = (make(net()).attribute(x, target=target, n_steps=4, return_convergence_delta=True) for x in (short(X), X))
        assert close(a, b, .02) and torch.allclose(delta.as_subclass(Tensor), other, atol=1e-3)

HALF = dict(normalize=((.5,)*3, (.5,)*3))
@pytest.mark.parametrize('make', [lambda m: IGUniform(m, count=2, k=2, **HALF), lambda m: IGSG(m, count=2, k=2, rule=ValidInterpolations,
    **HALF), lambda m: IGSQ(m, count=2, k=2, **HALF), lambda m: ExpectedGradients(m, X, count=4),
                                  lambda m: AGI(m, classes=2, steps=2, **HALF)], ids=['IGUniform', 'IGSG', 'IGSQ', 'EG', 'AGI'])
def test_every_class_that_draws(make):
    for target in (None, [1, 3]): assert close(make(net()).attribute(short(X), target=target), make(net()).attribute(X, target=target), .02)

M, N = pictures(2, 1)[:, 0].float() + .2, pictures(2, 1, seed=3)[:, 0].float() + .2
SCORES = {'stability': lambda m, n, s: vars(stability(m, n)).values(), 'stability of many': lambda m, n,
          s: vars(stability([m, n], [n, m])).values(), 'energy': lambda m, n, s: [energy_inside(m, MASK)], 'energy of many': lambda m, n,
          s: [energy_inside([m, n], MASK[0])],
          'pointing': lambda m, n, s: [pointing(m, MASK)], 'patchiness': lambda m, n, s: [patchiness(m)], 'patchiness of many': lambda m, n,
          s: [patchiness([m, n])], 'distance': lambda m, n, s: [distance(m, n)],
          'insertion': lambda m, n, s: (f := insertion(net(), s(X), [m, n], C, -1.)) and [f.curve, f.score, f.ratio], 'steps': lambda m, n,
          s: [l := step_lengths(StraightPath(-1.), s(X), 7), concentration(l)],
          'diffid': lambda m, n, s: (f := diffid_of_maps(net(), s(X), C, [m, n])) and [f.logits, f.by_accuracy, f.whole],
          'diffid of an attribution': lambda m, n, s: [diffid(net(), s(X), C, s(X)).logits],
          'sensitivity': lambda m, n, s: [sensitivity_n(net(), s(X), C, [m, n])],
          'blur steps': lambda m, n, s: [l := step_lengths(BlurPath(3.), s(X), 7), concentration(l)]}

@pytest.mark.parametrize('score', SCORES.values(), ids=list(SCORES))
def test_every_metric(score):
    for a, b in zip(score(short(M), short(N), short), score(M, N, lambda v: v), strict=True): assert close(a, b)

def sure(x): return 40*torch.stack([-x.mean((1, 2, 3)), x.mean((1, 2, 3))], 1)

def test_information_curves():
    pixels = .4 + .6*torch.rand(1, 3, 161, 161, generator=torch.Generator().manual_seed(0))
    there, here = (information_curves(sure, s(pixels), .4, s(pixels.sum(1)), 1, lambda v: v - .55) for s in (short, lambda v: v))
    for c in CURVES:
        a, b = (getattr(f, c) for f in (there, here))
        assert b.isfinite().all() and close(a, b, 1e-3) and close(area(a), area(b)), c

def test_the_map_of_a_map(): assert close(saliency(short(X)), saliency(X))

@pytest.mark.parametrize('go', [lambda x: attribute(net(), x, C, StraightPath(), (2,)), lambda x: IntegratedGradients(net()).attribute(x,
    target=C), lambda x: insertion(net(), x, M, C, 0.), lambda x: step_lengths(StraightPath(), x)])
def test_a_device_without_numbers_is_refused(go):
    with pytest.raises(InputError, match='meta'): go(X.to('meta'))

@pytest.mark.cuda
@pytest.mark.parametrize('path', PATHS.values(), ids=list(PATHS))
def test_cuda_has_float64_and_agrees(path):
    here, there = attribute(net(), X, C, path(), (4,), RULES), attribute(net().cuda(), X.cuda(), C, path(), (4,), RULES)
    for k, v in there.items(): assert v.is_cuda and close(v.cpu(), here[k], .02), k

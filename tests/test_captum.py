"Captum's calling convention, all of it: tuples, quadratures, further arguments, targets of every kind."
import numpy as np, pytest, torch
from captum.attr import IntegratedGradients as CaptumIG, NoiseTunnel
from captum.metrics import infidelity
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.method.attribution import BlurIG, GuidedIG, IDGI, IntegratedGradients, attribute
from idgi_repro.method.diffid import diffid
from idgi_repro.method.gradients import logit, predict
from idgi_repro.method.information import information_curves
from idgi_repro.method.metrics import insertion
from idgi_repro.method.paths import QUADRATURES, Quadrature, StraightPath, quadrature
from idgi_repro.method.recalibration import AGI, ExpectedGradients, IGSG, IGSQ, IGUniform, Mean, ValidInterpolations, ValidReferences
from idgi_repro.method.references import (AdversarialPath, ReferencePath, image_references, image_seeds, noise_references, other_classes,
                                          random_alphas, uniform_references)
from idgi_repro.method.rules import absolute, idgi, riemann, trapezoid
from idgi_repro.papers import controls
from idgi_repro.peers import Recorded, explain_func
from idgi_repro.study.models import Network
from idgi_repro.method.sensitivity import sensitivity_n
from reference import pictures, smooth

X, C = pictures(3), torch.tensor([4, 0, 2])
BLACK = pictures(1, seed=1) - 1


class Softmax(nn.Module):
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, *args): return self.net(*args).softmax(1)

class Tempered(nn.Module):
    "Logits moved by a row of numbers for each image, and all divided by one."
    def __init__(self): super().__init__(); self.net = smooth()
    def forward(self, x, moved, by=1., *rest): return (self.net(x) + moved.reshape(len(x), -1))/by

def same(a, b): return a.shape == b.shape and (a - b).norm() <= 1e-5*b.norm()


# -- quadratures

@pytest.mark.parametrize('n', [2, 3, 16])
@pytest.mark.parametrize('method', QUADRATURES)
def test_every_quadrature_is_captums(method, n):
    ours, delta = IntegratedGradients(smooth()).attribute(X, BLACK, C, n_steps=n, method=method, return_convergence_delta=True)
    theirs, their_delta = CaptumIG(Softmax(smooth())).attribute(X, BLACK, C, n_steps=n, method=method, return_convergence_delta=True)
    assert same(ours, theirs) and torch.allclose(delta, their_delta.to(delta), atol=1e-6)

@pytest.mark.parametrize('n', [1, 2, 5, 40])
@pytest.mark.parametrize('method', QUADRATURES)
def test_positions_and_weights_are_the_formulas(method, n):
    i = np.arange(n)
    if method == 'riemann_trapezoid' and n == 1:
        with pytest.raises(InputError, match='n_steps is 1'): quadrature(method, n)
        return
    t, w = dict(riemann_left=lambda: (i/n, i*0 + 1/n), riemann_right=lambda: ((i+1)/n, i*0 + 1/n),
                riemann_middle=lambda: ((i+.5)/n, i*0 + 1/n),
                riemann_trapezoid=lambda: (i/(n-1), np.where((i == 0) | (i == n-1), .5/n, 1/n)),
                gausslegendre=lambda: [(v + s)/2 for v, s in zip(np.polynomial.legendre.leggauss(n), (1, 0))])[method]()
    found = quadrature(method, n)
    np.testing.assert_allclose(found[0], t, atol=1e-14)
    np.testing.assert_allclose(found[1], w, atol=1e-14)

@pytest.mark.parametrize('internal', [None, 1, 2, 7, 1000])
def test_the_internal_batch_changes_nothing(internal):
    how = dict(baselines=BLACK, target=C, n_steps=5, method='gausslegendre')
    assert same(IntegratedGradients(smooth()).attribute(X, internal_batch_size=internal, **how),
                IntegratedGradients(smooth()).attribute(X, **how))

def test_the_left_sum_is_our_own():
    ig = IntegratedGradients(smooth())
    assert same(ig.attribute(X, BLACK, C, n_steps=8, method='riemann_left'), ig.attribute(X, BLACK, C, n_steps=8))

@pytest.mark.parametrize('method', QUADRATURES)
def test_the_blur_path_has_quadratures_too(method):
    a, delta = BlurIG(smooth(), max_sigma=3.).attribute(X, target=C, n_steps=300, method=method, return_convergence_delta=True)
    assert delta.abs().max() < .02 and a.abs().max() > .01

@pytest.mark.parametrize('said,go', [
    ('simpson', lambda: IntegratedGradients(smooth()).attribute(X, method='simpson')),
    ('looks at segments', lambda: IDGI(IntegratedGradients(smooth())).attribute(X, method='gausslegendre')),
    ('looks at segments', lambda: attribute(smooth(), X, C, Quadrature(StraightPath(), 'gausslegendre'), (4,), (trapezoid,))),
    ('looks at segments', lambda: attribute(smooth(), X, C, Quadrature(StraightPath(), 'gausslegendre'), (4,), (riemann, idgi))),
    ('leave method out', lambda: GuidedIG(smooth()).attribute(X, method='riemann_right')),
    ('no velocity', lambda: BlurIG(smooth(), grad_step=None).attribute(X, method='riemann_right')),
    ('published protocol', lambda: IntegratedGradients(smooth()).attribute(X, method='riemann_right', protocol='published')),
    ('n_steps is 1', lambda: IntegratedGradients(smooth()).attribute(X, method='riemann_trapezoid', n_steps=1))])
def test_quadratures_that_cannot_be_had(said, go):
    with pytest.raises(InputError, match=said): go()

def test_other_rules_of_points_have_quadratures_and_several_counts():
    found = attribute(smooth(), X, C, Quadrature(StraightPath(BLACK), 'gausslegendre'), (6, 8), (riemann, absolute))
    assert all((found['absolute', n] >= found['riemann', n].abs() - 1e-12).all() for n in (6, 8))


# -- tuples

@pytest.mark.parametrize('inputs,baselines', [((X,), None), ((X,), (BLACK,)), ((X,), (0.,)), (X, (BLACK,)), ((X,), BLACK), (X, (0,)),
                                              ((X,), (X*0,)), (X, BLACK[0]), (X, BLACK.numpy())])
@pytest.mark.parametrize('wrap', [lambda m: m, IDGI], ids=['IG', 'IDGI'])
def test_a_tuple_of_one_gives_a_tuple_of_one(inputs, baselines, wrap):
    plain = 0. if baselines is None else baselines[0] if isinstance(baselines, tuple) else baselines
    a, delta = wrap(IntegratedGradients(smooth())).attribute(inputs, baselines, C, n_steps=3, return_convergence_delta=True)
    assert isinstance(a, tuple) == isinstance(inputs, tuple) and delta.shape == (3,)
    if isinstance(a, tuple): a, = a
    assert same(a, wrap(IntegratedGradients(smooth())).attribute(X, torch.as_tensor(plain), C, n_steps=3))

@pytest.mark.parametrize('how', [dict(inputs=(X, X)), dict(inputs=()), dict(inputs=[X]), dict(inputs=X.numpy()),
                                 dict(baselines=(BLACK, BLACK)), dict(baselines=()), dict(baselines='black'),
                                 dict(baselines=torch.zeros(8)), dict(baselines=torch.zeros(8, 8)),
                                 dict(baselines=torch.zeros(2, 3, 8, 8))], ids=lambda h: str([*h]))
@pytest.mark.parametrize('make', [IntegratedGradients, GuidedIG])
def test_more_than_one_input_or_what_is_none_is_refused(how, make):
    with pytest.raises(InputError, match='input|images|baseline'): make(smooth()).attribute(**dict(inputs=X, target=C, n_steps=2) | how)


# -- further arguments

MOVED = torch.randn(3, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
ARGUMENTS = dict(tensor=MOVED, tuple=(MOVED,), number=(MOVED, 2.), scalar=(MOVED, torch.tensor(2.)), text=(MOVED, 3, 'text', None),
                 column=(MOVED[:, :1],), two=(MOVED, torch.tensor([[1.], [2.], [3.]])))

@pytest.mark.parametrize('args', ARGUMENTS.values(), ids=list(ARGUMENTS))
@pytest.mark.parametrize('how', [dict(target=C, baselines=BLACK), dict(target=2),
                                 dict(target=[1, 2, 3], baselines=X*0 + .1, internal_batch_size=2)], ids=['rows', 'one', 'list'])
def test_further_arguments_go_with_their_image(args, how):
    ours, delta = IntegratedGradients(Tempered()).attribute(X, additional_forward_args=args, n_steps=5, method='gausslegendre',
                                                            return_convergence_delta=True, **how)
    if args is ARGUMENTS['scalar']: args = (MOVED, 2.)
    theirs, their_delta = CaptumIG(Softmax(Tempered())).attribute(X, additional_forward_args=args, n_steps=5, method='gausslegendre',
                                                                  return_convergence_delta=True, **how)
    assert same(ours, theirs) and torch.allclose(delta, their_delta.to(delta), atol=1e-6)

@pytest.mark.parametrize('make', [GuidedIG, BlurIG, lambda m: IDGI(IntegratedGradients(m))], ids=['GuidedIG', 'BlurIG', 'IDGI'])
def test_every_method_takes_further_arguments_and_their_order_matters(make):
    a = make(Tempered()).attribute(X, None, C, MOVED, 3)
    for i in range(3):
        assert same(a[i:i+1], make(Tempered()).attribute(X[i:i+1], target=C[i], additional_forward_args=MOVED[i:i+1], n_steps=3))
    assert not same(a, make(Tempered()).attribute(X, None, C, MOVED.flip(0), 3))

def test_the_predicted_class_knows_the_arguments():
    moved = torch.eye(5, dtype=torch.float64)[[3, 1, 0]]*1e3
    assert same(IntegratedGradients(Tempered()).attribute((X,), None, None, moved, 3)[0],
                IntegratedGradients(Tempered()).attribute(X, None, [3, 1, 0], moved, 3))

@pytest.mark.parametrize('args', [MOVED[:2], (MOVED, MOVED[:1]), (MOVED.T,)])
def test_arguments_without_a_row_for_each_image_are_refused(args):
    with pytest.raises(InputError, match='additional_forward_args'):
        IntegratedGradients(Tempered()).attribute(X, target=C, additional_forward_args=args)


# -- methods that draw their own references

HALF, TRAIN = dict(normalize=((.5,)*3, (.5,)*3)), pictures(7, seed=5)    # X of -1 to 1 was normalised with these
DRAWN = {'IGUniform': lambda m, **h: IGUniform(m, count=3, k=2, **HALF, **h), 'IGSG': lambda m, **h: IGSG(m, count=3, k=2, **HALF, **h),
         'IGSQ': lambda m, **h: IGSQ(m, count=3, k=2, **HALF, **h),
         'EG': lambda m, **h: ExpectedGradients(m, TRAIN, count=6, **h), 'EG by number': lambda m,
         **h: ExpectedGradients(m, lambda seed: TRAIN[seed % 7], count=3, k=2, **h),
         'AGI': lambda m, **h: AGI(m, classes=3, steps=2, **HALF, **h)}
drawn = pytest.mark.parametrize('make', DRAWN.values(), ids=list(DRAWN))
normalized, pixels = lambda p: (p - .5)/.5, (X + 1)/2
PATHS = {'IGUniform': lambda s: ReferencePath(uniform_references(s, 3, normalized), 2),
         'IGSG': lambda s: ReferencePath(noise_references(pixels, s, 3, normalized), 2),
         'IGSQ': lambda s: ReferencePath(noise_references(pixels, s, 3, normalized), 2),
         'EG': lambda s: ReferencePath(image_references(s, 6, TRAIN), 1, random_alphas(s, 6)),
         'EG by number': lambda s: ReferencePath(image_references(s, 3, lambda n: TRAIN[n % 7]), 2, random_alphas(s, 3, 2)),
         'AGI': lambda s: AdversarialPath(other_classes(s, C, 3, 5), 2, normalize=HALF['normalize'])}

@pytest.mark.parametrize('seed', [0, 3])
@pytest.mark.parametrize('rule', [Mean, ValidReferences, ValidInterpolations])
@pytest.mark.parametrize('name', DRAWN)
def test_they_are_attribute_with_the_same_draws(name, rule, seed):
    found = DRAWN[name](smooth(), rule=rule, seed=seed).attribute(X, target=C)
    wanted = attribute(smooth(), X, C, PATHS[name](image_seeds(X, seed)), rules=(rule(squared=name == 'IGSQ'),))
    assert same(found, *wanted.values()) and found.abs().max() > 0

@drawn
def test_a_map_is_of_its_image_and_seed_whatever_the_batch(make):
    a = make(smooth()).attribute(X, target=C)
    for i in range(3): assert same(a[i:i+1], make(smooth()).attribute(X[i:i+1], target=C[i]))
    assert same(a.flip(0), make(smooth()).attribute(X.flip(0), target=C.flip(0), internal_batch_size=2))
    assert not same(a, make(smooth(), seed=1).attribute(X, target=C))

@drawn
def test_they_are_called_as_the_others_are(make):
    a = make(smooth()).attribute(X, target=C)
    b, = make(smooth()).attribute((X,), None, C.tolist(), None, 6, None, 4)
    assert same(a, b) and same(make(smooth()).attribute(X), make(smooth()).attribute(X, target=predict(smooth(), X).argmax(1)))
    c = make(Tempered()).attribute(X, None, C, MOVED)
    for i in range(3): assert same(c[i:i+1], make(Tempered()).attribute(X[i:i+1], target=C[i], additional_forward_args=MOVED[i:i+1]))
    assert not same(c, make(Tempered()).attribute(X, None, C, MOVED.flip(0)))

@pytest.mark.parametrize('name', [n for n in DRAWN if n != 'AGI'])
def test_their_delta_is_that_of_the_mean_reference(name):
    a, delta = DRAWN[name](smooth()).attribute(X, target=C, return_convergence_delta=True)
    change = PATHS[name](image_seeds(X)).change(lambda v: predict(smooth(), v.flatten(0, 1)).softmax(1).gather(1,
        C.repeat(len(v))[:, None]).view(v.shape[:2]), X)
    assert torch.allclose(delta, a.sum((1, 2, 3)) - change)
    if name != 'EG': assert IDGI(DRAWN[name](smooth())).attribute(X, target=C).shape == X.shape

@pytest.mark.parametrize('said, go', [
    ('takes no baselines', lambda: DRAWN['IGSG'](smooth()).attribute(X, BLACK)),
    ('has 6 points', lambda: DRAWN['IGSG'](smooth()).attribute(X, n_steps=8)),
    ('leave method out', lambda: DRAWN['AGI'](smooth()).attribute(X, method='riemann_left')),
    ('no completeness', lambda: DRAWN['AGI'](smooth()).attribute(X, return_convergence_delta=True)),
    ('rule is', lambda: IGUniform(smooth(), rule=Mean())), ('rule is', lambda: IGUniform(smooth(), rule='mean')),
    ('there are 0 references', lambda: IGUniform(smooth(), count=0, **HALF).attribute(X)),
    ('k is 0', lambda: IGSG(smooth(), k=0, **HALF).attribute(X)),
    ('k is -1', lambda: ExpectedGradients(smooth(), TRAIN, k=-1).attribute(X)),
    ('there are -2 references', lambda: ExpectedGradients(smooth(), TRAIN, count=-2).attribute(X)),
    ('with normalize', lambda: IGUniform(smooth()).attribute(X)), ('with normalize', lambda: AGI(smooth(), classes=2).attribute(X)),
    ('3 numbers or one', lambda: IGSG(smooth(), normalize=((.5,)*2, (.5,)*2)).attribute(X)),
    ('std positive', lambda: IGSG(smooth(), normalize=(.5, 0.)).attribute(X)),
    ('of 5 classes 4 can be drawn', lambda: AGI(smooth(), classes=5, **HALF).attribute(X)),
    ('of 1 classes 0 can be drawn', lambda: AGI(smooth(classes=1), logit, classes=1, **HALF).attribute(X)),
    ('no training images', lambda: ExpectedGradients(smooth(), TRAIN[:0]).attribute(X)),
    ('do not fit images', lambda: ExpectedGradients(smooth(), TRAIN[:, :1]).attribute(X)),
    ('do not fit images', lambda: ExpectedGradients(smooth(), lambda seed: TRAIN[0, 0]).attribute(X)),
    (r'images \(N, C, H, W\)', lambda: ExpectedGradients(smooth(), TRAIN[0]).attribute(X)),
    ('NaN', lambda: ExpectedGradients(smooth(), TRAIN*torch.nan).attribute(X))])
def test_draws_that_cannot_be(said, go):
    with pytest.raises(InputError, match=said): go()


# -- among other packages

INNER = X*.4 # whose pixels, with HALF undone, stay in [0, 1] under a little noise
def recorded(name): return lambda m: Recorded(Network('net', m, (.5,)*3, (.5,)*3, 8, 8), controls.PAPER, name)
EVERY = dict(IG=IntegratedGradients, GIG=GuidedIG, BlurIG=lambda m: BlurIG(m, max_sigma=2.), IDGI=lambda m: IDGI(IntegratedGradients(m)),
             **DRAWN, **{n: recorded(n) for n in ('ig', '|ig|', 'left+idgi', 'edges', 'smoothgrad')})
def steps_of(name): return {} if name in DRAWN else dict(n_steps=3)

@pytest.mark.parametrize('name', EVERY)
def test_every_method_in_captums_noise_tunnel_and_metrics(name):
    method, how = EVERY[name](smooth()), dict(target=C, **steps_of(name))
    a = method.attribute(INNER, **how)
    assert torch.allclose(NoiseTunnel(method).attribute(INNER, nt_samples=2, stdevs=0., **how), a, atol=1e-9)
    assert NoiseTunnel(method).attribute((INNER,), nt_samples=3, nt_samples_batch_size=2, stdevs=.01, **how)[0].shape == X.shape
    assert infidelity(Softmax(smooth()), lambda v: (v*.1, v*.9), INNER, a.contiguous(), target=C).shape == (3,)

def test_the_noise_tunnel_has_the_delta_too():
    tunnel = NoiseTunnel(IDGI(IntegratedGradients(smooth())))
    _, delta = tunnel.attribute(X, nt_samples=2, target=C, n_steps=3, return_convergence_delta=True)
    assert delta.shape == (6,) and delta.abs().max() < 1e-9

@pytest.mark.parametrize('name', EVERY)
def test_every_method_as_quantus_calls_it(name):
    found = explain_func(EVERY[name])(model=smooth(), inputs=INNER.numpy(), targets=C.numpy(), device='cpu', **steps_of(name))
    wanted = EVERY[name](smooth()).attribute(INNER, target=C, **steps_of(name))
    assert isinstance(found, np.ndarray) and same(torch.from_numpy(found), wanted)

def test_a_record_is_the_method_that_it_records():
    black = torch.full((1, 3, 1, 1), -1., dtype=X.dtype).expand(1, 3, 8, 8)
    wanted = IDGI(IntegratedGradients(smooth())).attribute(X, black, C, n_steps=4)
    assert same(recorded('ig+idgi')(smooth()).attribute(X, C, 4).sum(1), wanted.sum(1))
    with pytest.raises(InputError, match="unknown method 'lime'"): recorded('lime')(smooth())


# -- targets

EACH = {'tensor': C, 'list': [4, 0, 2], 'tuple': (4, 0, 2), 'array': np.array([4, 0, 2]), 'column': C[:, None],
        'column array': np.array([[4], [0], [2]]), 'tuples': [(4,), (0,), (2,)],
        'tensors': [*C], 'arrays': [*np.array([4, 0, 2])], 'backwards': np.array([2, 0, 4])[::-1], 'big endian': np.array([4, 0, 2], '>i4'),
        'part': torch.tensor([4, 9, 0, 9, 2])[::2]}
EACH |= {str(t): C.to(t) for t in (torch.int32, torch.int16, torch.int8, torch.uint8)} | {t: np.array([4, 0, 2], t)
    for t in ('int8', 'uint16', 'uint32', 'uint64')}
ONE = {'int': 2, 'tuple': (2,), 'list': [2], 'tensor': torch.tensor(2), 'row': torch.tensor([2]), 'cell': torch.tensor([[2]]),
       'numpy': np.int64(2), 'array': np.array(2), 'byte': np.uint8(2)}
WRONG = {'short': [4, 0], 'long': [4, 0, 2, 1], 'row': torch.tensor([[4, 0, 2]]), 'float': 2., 'floats': torch.tensor([4., 0., 2.]),
         'bool': True, 'bools': [True, False, True], 'text': 'cat', 'huge': 2**70,
         'nested': [[4, 0], [2]], 'matrix': np.zeros((3, 2), int), 'complex': torch.tensor([1j]), 'dict': {}, 'above': [4, 0, 5],
         'below': -1, 'wrapped': 2**63 + 1}
CASES = [pytest.param(t, C, id=f'each {k}') for k, t in EACH.items()] + [pytest.param(t, torch.full((3,), 2), id=f'one {k}') for k,
                                                                         t in ONE.items()]

def explained(target): return attribute(smooth(), X, target, StraightPath(BLACK), (2,))['idgi', 2]
def sampled(target): return DRAWN['IGSG'](smooth()).attribute(X, target=target)
def classed(target): return IDGI(IntegratedGradients(smooth())).attribute(X, BLACK, target, n_steps=2)
def inserted(target): return insertion(smooth(), X, X.sum(1), target, BLACK).curve
def deleting(target): return diffid(smooth(), X, target, X).logits
def correlated(target): return sensitivity_n(smooth(), X, target, X.sum(1), draws=3, fractions=(.5,))
def informed(target): return information_curves(smooth(), (X + 1)/2, 0., X.sum(1), target, lambda v: 2*v - 1).prob

@pytest.mark.parametrize('target,expected', CASES)
@pytest.mark.parametrize('go', [explained, classed, sampled, inserted, deleting, correlated, informed])
def test_every_target_is_taken_everywhere(go, target, expected): assert torch.equal(go(target), go(expected))

@pytest.mark.parametrize('target', WRONG.values(), ids=list(WRONG))
@pytest.mark.parametrize('go', [explained, classed, sampled, inserted, deleting, correlated, informed])
def test_what_is_no_target_is_refused_everywhere(go, target):
    with pytest.raises(InputError, match='target'): go(target)

def test_no_target_is_the_predicted_class_of_the_classes_only():
    assert torch.equal(classed(None), classed(predict(smooth(), X).argmax(1)))
    with pytest.raises(InputError, match='target'): explained(None)

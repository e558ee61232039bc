"However images, classes, baselines and maps come, the result is that of the plain call; nothing of a graph is kept."
import numpy as np, pytest, torch
from hypothesis import given, settings, strategies as st

from idgi_repro.method.attribution import BlurIG, GuidedIG, IDGI, IntegratedGradients, attribute
from idgi_repro.method.diffid import diffid, diffid_of_maps
from idgi_repro.method.information import CURVES, information_curves
from idgi_repro.method.metrics import concentration, distance, energy_inside, insertion, patchiness, pointing, stability, step_lengths
from idgi_repro.method.paths import StraightPath
from idgi_repro.method.sensitivity import sensitivity_n
from reference import pictures, smooth

LAYOUTS = dict(plain=lambda v: v, channels_last=lambda v: v.contiguous(memory_format=torch.channels_last) if v.ndim == 4 else v,
               turned=lambda v: v.mT.contiguous().mT, sliced=lambda v: torch.cat([v, v], -1)[..., :v.shape[-1]],
               stepped=lambda v: v.repeat_interleave(2, -1)[..., ::2], part=lambda v: torch.cat([v[:1], v, v[:1]])[1:-1],
               graph=lambda v: v.clone().requires_grad_(), computed=lambda v: v.clone().requires_grad_()*1)
TARGETS = [lambda c: c, lambda c: c.tolist(), lambda c: tuple(c.tolist()), lambda c: c.numpy(), lambda c: c[:, None],
           lambda c: c.to(torch.int16), lambda c: c.numpy().astype(np.uint8), lambda c: [(i,) for i in c.tolist()], lambda c: [*c]]
ONE = [int, lambda i: (i,), lambda i: [i], torch.tensor, lambda i: torch.tensor([i]), np.int32, lambda i: torch.tensor([[i]])]
BASELINES = [lambda b: b, lambda b: (b,), lambda b: b.double().numpy(), lambda b: b.clone().requires_grad_(),
             lambda b: b.mT.contiguous().mT]
DTYPES = {torch.float16: .05, torch.float32: 1e-3, torch.float64: 1e-9}

@st.composite
def cases(draw):
    "Images, classes, a baseline and a map, each plain and as somebody has them."
    b, h, w = draw(st.integers(1, 4)), draw(st.integers(4, 9)), draw(st.integers(4, 9))
    dtype, layout, seed = draw(st.sampled_from([*DTYPES])), draw(st.sampled_from([*LAYOUTS])), draw(st.integers(0, 99))
    x = pictures(b, 3, h, w, seed).to(dtype)
    if b > 1 and draw(st.booleans()): x = x[:1].expand(b, -1, -1, -1)
    if draw(st.booleans()):
        target = (t := torch.randint(5, (b,), generator=torch.Generator().manual_seed(seed)), draw(st.sampled_from(TARGETS))(t))
    else: target = (torch.full((b,), i := draw(st.integers(0, 4))), draw(st.sampled_from(ONE))(i))
    rows = pictures(draw(st.sampled_from([1, b])), 3, h, w, seed+1).to(dtype)
    number = draw(st.sampled_from([-1, 0., .5]))
    baseline = (rows, draw(st.sampled_from(BASELINES))(rows)) if draw(st.booleans()) else (torch.full_like(rows, number),
        draw(st.sampled_from([number, (number,), torch.tensor(number), np.float64(number)])))
    m = pictures(b, 1, h, w, seed+2)[:, 0].to(dtype)
    saliency = draw(st.sampled_from([lambda v: v, lambda v: LAYOUTS[layout](v), lambda v: v.detach().numpy()]))(m)
    return dtype, LAYOUTS[layout](x), x.contiguous(), target, baseline, (m, saliency)

def close(a, b, tol):
    return a.shape == b.shape and a.dtype == b.dtype and not a.requires_grad and (a.double()
        - b.double()).norm() <= tol*(b.double().norm() + 1e-3)

@settings(max_examples=25, deadline=None, derandomize=True, database=None)
@given(cases())
def test_every_way_to_say_it_says_the_same(case):
    dtype, given_x, x, (target, given_target), (baseline, given_baseline), (m, given_m) = case
    net, tol, whole = smooth().to(dtype), DTYPES[dtype], baseline.expand_as(x).contiguous()
    given_a, a = attribute(net, given_x, given_target, StraightPath(given_baseline), (3,)), attribute(net, x, target,
        StraightPath(whole), (3,))
    for k in a: assert close(given_a[k], a[k], tol), k
    for method in (IntegratedGradients(net), IDGI(IntegratedGradients(net))):
        assert close(method.attribute((given_x,), given_baseline, given_target, n_steps=3)[0], a[method.rule.name, 3], tol)
    got, plain = insertion(net, given_x, given_m, given_target, given_baseline), insertion(net, x, m, target, whole)
    assert close(got.curve, plain.curve, tol)
    assert close(insertion(net, given_x, [given_m, m], given_target, given_baseline).curve[0], plain.curve, tol)
    pixels = lambda v: (v + 1)/2
    got, plain = (information_curves(net, pixels(v), .5, maps, c, lambda v: 2*v - 1) for v, maps,
                  c in ((given_x, given_m, given_target), (x, m, target)))
    assert close(got.prob, plain.prob, tol) and torch.equal(got.bytes, plain.bytes)
    mask = m > 0
    for f in (patchiness, lambda v: energy_inside(v, mask), lambda v: energy_inside(v, mask.numpy()), lambda v: stability(v, m).l1,
              lambda v: distance(v, 2*m)): assert close(f(given_m), f(m), 1e-9)
    assert torch.equal(pointing(given_m, mask), pointing(m, mask))
    assert close(step_lengths(StraightPath(given_baseline), given_x, 3), step_lengths(StraightPath(whole), x, 3), tol)


# -- graphs

X, C = pictures(2), torch.tensor([1, 3])
def leaf(v): return v.clone().requires_grad_()
def through(v): return leaf(v)*1
M, PIXELS = X.sum(1), (X + 1)/2
RESULTS = {'attribute': lambda v: [*attribute(smooth(), v(X), C, StraightPath(v(X[:1]*0)), (4,)).values()],
           'IG': lambda v: IntegratedGradients(smooth()).attribute(v(X), v(X*0), C, n_steps=4, return_convergence_delta=True),
           'IG, Gauss': lambda v: IntegratedGradients(smooth()).attribute(v(X), v(X*0), None, n_steps=4, method='gausslegendre',
                                                                          return_convergence_delta=True),
           'GIG': lambda v: GuidedIG(smooth()).attribute(v(X), v(X*0), C, n_steps=4, return_convergence_delta=True),
           'BlurIG': lambda v: BlurIG(smooth(), max_sigma=3.).attribute(v(X), target=C, n_steps=4, return_convergence_delta=True),
           'IDGI': lambda v: IDGI(IntegratedGradients(smooth())).attribute((v(X),), (v(X*0),), C, n_steps=4)[0],
           'insertion': lambda v: [(f := insertion(smooth(), v(X), v(M), C, v(X*0))).curve, f.score, f.ratio],
           'information': lambda v: [(f := information_curves(smooth(), v(PIXELS), v(PIXELS*0), v(M), C, lambda u: 2*u - 1)).prob,
                                     *(getattr(f, c) for c in CURVES)], 'stability': lambda v: [*vars(stability(v(M), v(-M))).values()],
           'energy': lambda v: energy_inside(v(M), M > 0), 'pointing': lambda v: pointing(v(M), M > 0),
           'patchiness': lambda v: patchiness([v(M), v(-M)]), 'distance': lambda v: distance(v(M), v(2*M)),
           'diffid': lambda v: [*vars(diffid_of_maps(smooth(), v(X), C, [v(M), v(-M)])).values(), diffid(smooth(), v(X), C, v(X)).logits],
           'sensitivity': lambda v: sensitivity_n(smooth(), v(X), C, v(M)),
           'steps': lambda v: concentration(step_lengths(StraightPath(v(X*0)), v(X), 5))}

@pytest.mark.parametrize('wrap', [leaf, through])
@pytest.mark.parametrize('go', RESULTS.values(), ids=list(RESULTS))
def test_results_are_detached_and_nothing_is_held(go, wrap):
    found = go(wrap)
    for a, b in zip(found, go(lambda v: v), strict=True): assert not a.requires_grad and a.grad_fn is None and torch.equal(a.nan_to_num(),
            b.nan_to_num())

"The objectives and evaluations of implicit densities against what the published code computes (float64, ../shared/golden/densities.npz)."
import sys, warnings
from pathlib import Path

import numpy as np, pytest, torch
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.method.ascent import ascend, kept_pixels, log_ratios, perturbation
from idgi_repro.method.densities import (anti_score_matching, gradient_norm, regularised, score_matching, trace_estimate)
from idgi_repro.method.gradients import logit, value_and_gradient

SHARED = Path(__file__).resolve().parents[2]/'shared'
GOLDEN = SHARED/'golden'/'densities.npz'
with_golden = pytest.mark.skipif(not GOLDEN.is_file(), reason='the golden values are not here')
TIMES = 1e-7 # relative, of the largest absolute value

@pytest.fixture(scope='module')
def golden():
    with np.load(GOLDEN) as f: return {k: torch.from_numpy(f[k]) for k in f.files if f[k].dtype.kind != 'U'}

def network(kind='softplus_cifar_resnet', depth=20):
    "In double precision, on pixels, with parameters that can be trained."
    sys.path.append(str(SHARED/'realdata'))
    import realdata
    found = getattr(realdata, kind)(depth)
    net = found[0] if isinstance(found, tuple) else found
    if isinstance(found, tuple) and kind == 'cifar_resnet':
        mean, std = (torch.tensor(v, dtype=torch.double).view(-1, 1, 1) for v in found[1:])
        net = net.double()
        whole = nn.Module(); whole.net = net; whole.forward = lambda p: net((p - mean)/std)
        return whole.eval().requires_grad_(True)
    return net.double().eval().requires_grad_(True)

def images(golden, n=4): return golden['pixels'][:n].permute(0, 3, 1, 2).double()/255, golden['label'][:n]

def near(a, b, times=TIMES): return (a.detach().double() - b.double()).abs().max() <= times*b.double().abs().max()

@with_golden
def test_network_and_gradient(golden):
    net, (x, y) = network(), images(golden)
    assert near(net(images(golden, 16)[0]), golden['f64/logits'])
    assert near(value_and_gradient(net, x, y, logit)[1], golden['f64/logit_gradient'])

@with_golden
@pytest.mark.parametrize('name, sigma', [('score', .01), ('anti', .001)])
def test_trace(golden, name, sigma):
    x, y = images(golden)
    with torch.no_grad(): assert near(trace_estimate(network(), x, y, noise(golden, sigma), sigma), golden[f'f64/trace_{name}'])

def noise(golden, sigma):
    "So that sigma times it, in double precision, is what the published code added, which was multiplied in float32."
    return (golden['eps']*np.float32(sigma)).double()/sigma

def regularisers(golden):
    eps, tiny = noise(golden, .01), noise(golden, .001)
    mid = golden['ceiling_mid'].item()
    return dict(score1=lambda *a: score_matching(*a, eps[:1]), score2=lambda *a: score_matching(*a, eps), gnorm=gradient_norm,
                anti_1e4=lambda *a: anti_score_matching(*a, tiny[:1], ceiling=1e4),
                anti_mid=lambda *a: anti_score_matching(*a, tiny[:1], ceiling=mid))

def ends(net):
    "The first convolution's and the last layer's weights, and the first norm."
    convolution, linear, norm = ([m for m in net.modules() if isinstance(m, kind)] for kind in (nn.Conv2d, nn.Linear, nn.BatchNorm2d))
    return convolution[0].weight, linear[-1].weight, norm[0]

@with_golden
@pytest.mark.parametrize('mode', ('eval', 'train'))
@pytest.mark.parametrize('name', ('score1', 'score2', 'anti_1e4', 'anti_mid', 'gnorm'))
def test_regulariser(golden, mode, name):
    net, (x, y), key = network(), images(golden), f'f64/{mode}/{name}'
    net.train(mode == 'train')
    value = regularisers(golden)[name](net, x, y)
    value.backward()
    first, last, _ = ends(net)
    assert near(value, golden[f'{key}/value'])
    assert near(first.grad, golden[f'{key}/grad_first']) and near(last.grad, golden[f'{key}/grad_last'])

@with_golden
@pytest.mark.parametrize('name', ('score1', 'anti_1e4', 'gnorm'))
def test_training_step(golden, name):
    "One step of SGD, with the running statistics that one clean and, but for the gradient norm, one noisy evaluation leave."
    net, (x, y), key = network().train(), images(golden), f'f64/train/{name}'
    optimizer = torch.optim.SGD(net.parameters(), .1, momentum=.9, weight_decay=5e-4)
    regularised(regularisers(golden)[name], 1e-5)(net, x, y).backward()
    optimizer.step()
    first, last, norm = ends(net)
    for found, what in ((first, 'step_first'), (last, 'step_last'), (norm.running_mean, 'running_mean'), (norm.running_var, 'running_var')):
        assert near(found, golden[f'{key}/{what}']), what

@with_golden
def test_perturbation(golden):
    x, y = images(golden, 16)
    saliency, fractions = golden['saliency'], golden['fractions'].tolist()
    kept = np.unpackbits(golden['keep_packed'].numpy(), axis=-1).reshape(25, 16, 32, 32).astype(bool)
    assert all((kept_pixels(saliency, m).numpy() == k).all() for m, k in zip(fractions, kept))
    relu = network('cifar_resnet')
    own = value_and_gradient(relu, x, y, logit)[1]
    given = saliency.double()
    for net, gradient, name in ((network(), given, 'own_softplus'), (relu, given, 'relu_by_softplus'), (relu, own, 'own_relu')):
        counts = perturbation(net, x, y, gradient, fractions).sum(1)
        assert (counts - golden[f'perturb/{name}']).abs().max() <= 1, name

@with_golden
def test_ascent(golden):
    net, start, y = network(), golden['start'].double(), golden['sample_target']
    assert near(ascend(net, start, y, 3), golden['f64/ascent3'])
    assert near(ascend(net, start, y, 3, rate=.01, decay=0.), golden['f32/denoise3'], 4e-5)

def flat(width=3): return nn.Sequential(nn.Flatten(), nn.Linear(12, width)).double()

X, Y = torch.rand(2, 3, 2, 2, dtype=torch.double), torch.tensor([0, 1])

@pytest.mark.parametrize('given, word', [
    (lambda: trace_estimate(flat(), X, Y, sigma=0), 'sigma is 0'), (lambda: score_matching(flat(), X, Y, sigma=-1), 'sigma is -1'),
    (lambda: score_matching(flat(), X, Y, torch.zeros(1, 3, 3, 2, 2)), 'noise of shape'), (lambda: ascend(flat(), X, Y, 0), 'steps is 0'),
    (lambda: ascend(flat(), X, Y, 1, rate=0), 'rate is 0'), (lambda: kept_pixels(X, 0), 'fraction is 0'),
    (lambda: kept_pixels(X, 1.5), 'fraction is 1.5'),
    (lambda: perturbation(flat(), X, Y, X[:, :1], (.5,)), 'gradient of shape')])
def test_refused(given, word):
    with pytest.raises(InputError, match=word): given()

def hidden(activation): return nn.Sequential(nn.Flatten(), nn.Linear(12, 8), activation, nn.Linear(8, 3)).double()

def test_warned_of_what_has_no_curvature():
    with pytest.warns(UserWarning, match='ReLU'): score_matching(hidden(nn.ReLU()), X, Y)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        score_matching(hidden(nn.Softplus(10)), X, Y)

def test_batches_change_nothing():
    "Ascent, with its noise, and ratios are of each image alone."
    net, x, y = hidden(nn.Softplus()), torch.rand(5, 3, 2, 2).double(), torch.arange(5) % 3
    whole = ascend(net, x, y, 4, noise=.1, seeds=range(5), batch_size=2), log_ratios(net, x, y, (.1, .5), range(5), 2)
    for i in range(5):
        one = slice(i, i + 1)
        assert torch.allclose(ascend(net, x[one], y[one], 4, noise=.1, seeds=[i]), whole[0][one])
        assert torch.allclose(log_ratios(net, x[one], y[one], (.1, .5), [i]), whole[1][:, one])

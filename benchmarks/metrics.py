"""OMP_NUM_THREADS=1 python benchmarks/metrics.py [--quick] [--rounds N] [--images N] [--out figures/benchmarks]

The metrics of maps beside Captum's, pytorch-grad-cam's and Quantus's, in one process and in turns: the same network as it is, images,
draws, numbers of passes, and maps, one of each image but in one line, though ours share passes among more. What is the same by definition
is compared as well, and how far the numbers are apart at most is in the table. The network and the images come with the package. A
package that is not installed is left out, and a line says so. MAS has no peer, and its passes are those of insertion and deletion."""
import argparse, json, os, sys, warnings
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from time import process_time
from typing import Callable

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
import numpy as np, pandas as pd, torch
from torch import nn

from bench import Probability, machine, row, turns
from idgi_repro.method.attribution import attribute
from idgi_repro.method.diffid import FRACTIONS
from idgi_repro.method.gradients import evaluating, logit, predict, reuse_memory
from idgi_repro.method.infidelity import infidelity, max_sensitivity
from idgi_repro.method.metrics import ranks
from idgi_repro.method.paths import StraightPath, noise
from idgi_repro.method.removal import ROAD_FRACTIONS, deletion, imputed, road
from idgi_repro.method.rules import riemann
from idgi_repro.method.sanity import layers, randomised, rank_correlation
from idgi_repro.method.sensitivity import sensitivity_n
from idgi_repro.study.images import Embedded, load_batch
from idgi_repro.study.models import load

PEERS = {'Captum': ('captum', 'captum.metrics'), 'pytorch-grad-cam': ('grad-cam', 'pytorch_grad_cam.metrics.road'),
         'Quantus': ('quantus', 'quantus')} # the package and what is imported of it
LIMIT = .97                                 # times as fast, at least: where passes are all there is, rounds differ by some 3 %
SIDE = 210                                  # of which a seventh and a twentieth of the pixels are whole numbers, as Quantus needs
DRAWS, MOVE, CHANGE = 10, .02, .2           # changes of an image; how far sensitivity-max and infidelity change it
MAPS = 5                                    # that share passes in the line that says so
BLOCK = 30                                  # the side of the squares that Quantus's infidelity blackens one after the other
STEPS = 21                                  # of a deletion curve
SETS = 7                                    # for each fraction of sensitivity-n, as many passes as Quantus has with STEPS*3 steps


@dataclass
class Scene:
    "The network, what it sees, and a map of each image, (B, H, W); the attribution that it is of has every channel."
    model:nn.Module
    x:torch.Tensor
    target:torch.Tensor
    attribution:torch.Tensor

    def __post_init__(self): self.map = self.attribution.sum(1)

    @property
    def arrays(self): return [v.numpy() for v in (self.x, self.target, self.map[:, None])]

class Grey(nn.Module):
    "A network of grey images: Quantus's ROAD takes no others."
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x): return self.net(x.expand(-1, 3, -1, -1))

def scene(side, count):
    net = load('mini_resnet')
    net.resize = net.crop = side
    batch = load_batch(net, Embedded(count))
    x = net.normalize(batch.pixels)
    walked = attribute(net.module, x, batch.labels, StraightPath(), (16,), (riemann,))['riemann', 16]
    return Scene(net.module, x, batch.labels, walked.float())

def gradient(model, x, target):
    "A cheap explanation, so that what the metric does itself counts: the gradient of the logit, (B, H, W)."
    with evaluating(model), torch.enable_grad():
        v = x.detach().requires_grad_()
        return torch.autograd.grad(logit(model(v), target).sum(), v)[0].sum(1)


@dataclass
class Case:
    "A metric, here and elsewhere; `apart` tells how the numbers of the two compare."
    what:str
    ours:Callable
    theirs:Callable
    passes:int # over each image
    apart:Callable = lambda a, b: np.abs(np.asarray(a) - np.asarray(b)).max()

def captum(s, m):
    "Captum's, which takes the draws of an image together."
    B, f, shape = len(s.x), Probability(s.model), (DRAWS, *s.x.shape[1:])
    def changed(x):
        v = CHANGE*noise(range(B), shape).flatten(0, 1)
        return v, x - v
    def moved(x): return x + MOVE*(2*noise(range(B), shape, uniform=True) - 1).flatten(0, 1)
    def ours(x): return gradient(s.model, x, s.target.repeat(len(x)//B))
    def theirs(x):
        x, = x if isinstance(x, tuple) else (x,)
        return gradient(s.model, x, s.target.repeat_interleave(len(x)//B)), # of a tensor Captum compares every image with the first
    def unfaithful(a): return m.infidelity(f, changed, s.x, a, target=s.target, n_perturb_samples=DRAWS, normalize=True)
    each = [s.attribution.roll(i, 3) for i in range(MAPS)]
    yield Case('infidelity', lambda: infidelity(s.model, s.x, s.target, s.attribution, noise=CHANGE, draws=DRAWS),
               lambda: unfaithful(s.attribution), DRAWS)
    yield Case(f'infidelity of {MAPS} maps', lambda: infidelity(s.model, s.x, s.target, each, noise=CHANGE, draws=DRAWS),
               lambda: torch.stack([unfaithful(a) for a in each]), DRAWS*MAPS)
    yield Case('sensitivity-max', lambda: max_sensitivity(ours, s.x, MOVE, DRAWS, together=DRAWS),
               lambda: m.sensitivity_max(theirs, s.x, moved, n_perturb_samples=DRAWS), DRAWS)

def grad_cam(s, m):
    "pytorch-grad-cam's, whose noise has no seed and whose shares are rounded otherwise."
    from pytorch_grad_cam.utils.model_targets import ClassifierOutputSoftmaxTarget
    targets, percentiles = [ClassifierOutputSoftmaxTarget(int(c)) for c in s.target], [round(100*q) for q in ROAD_FRACTIONS]
    yield Case('ROAD', lambda: road(s.model, s.x, s.map, s.target).score,
               lambda: m.ROADCombined(percentiles)(s.x, s.map.numpy(), targets, s.model), 2*len(percentiles))

def _blackened(s):
    "What Quantus's infidelity takes away: one square after the other, until nothing is left."
    side, n = s.x.shape[-1], s.x.shape[-1]//BLOCK
    number = torch.arange(n*n).view(n, n).repeat_interleave(BLOCK, 0).repeat_interleave(BLOCK, 1)
    return torch.stack([s.x*(number <= i) for i in range(n*n)])

def _right(s, order):
    "The share of images that are still recognised when the first pixels of an order are imputed."
    counts = [int(order[0].numel()*q) for q in ROAD_FRACTIONS]
    return [float((predict(s.model, imputed(s.x, order < n)).argmax(1) == s.target).float().mean()) for n in counts]

def _cascade(s, m):
    "Correlations of the ranks with maps of Quantus's own random networks."
    drawn = m.helpers.model.pytorch_model.PyTorchModel(s.model, channel_first=True, softmax=False).get_random_layer_generator()
    return [rank_correlation(s.map, gradient(model, s.x, s.target)).tolist() for _, model in drawn]

def quantus(s, m):
    "Quantus's, which takes one draw at a time, and maps of which a pixel has three values."
    B, pixels, count = len(s.x), s.map[0].numel(), len(layers(s.model))
    plain = dict(normalise=False, abs=False, disable_warnings=True)
    x, c, a = s.arrays
    def of(model, inputs, targets, **_): return gradient(model, torch.as_tensor(inputs), torch.as_tensor(targets))[:, None].numpy()
    def called(metric, a=a, **how): return metric(model=s.model, x_batch=x, y_batch=c, a_batch=a, **how)

    curve = lambda steps: called(m.PixelFlipping(features_in_step=3*pixels//steps, perturb_baseline=0., **plain))
    def same(ours, _): return np.abs(ours[:, 1:].numpy() - np.array(curve(60))[:, 2::3]).max() # every third of its steps is one of ours
    yield Case('deletion', lambda: deletion(s.model, s.x, s.map, s.target, 0.).curve, lambda: curve(STEPS), STEPS, same)

    flips = m.SensitivityN(features_in_step=pixels//STEPS, perturb_baseline=0., n_max_percentage=1., **plain)
    yield Case('sensitivity-n', lambda: sensitivity_n(s.model, s.x, s.target, s.map, draws=SETS, fill='zero'),
               lambda: called(flips, softmax=False), SETS*len(FRACTIONS), lambda *_: np.nan) # its order is the map's, ours random sets

    black, blocks = _blackened(s), m.Infidelity(perturb_patch_sizes=[BLOCK], n_perturb_samples=1, perturb_baseline=0., **plain)
    whole = np.ascontiguousarray(s.attribution.numpy())
    yield Case('infidelity', lambda: infidelity(s.model, s.x, s.target, s.attribution, black, scaled=False, score=logit),
               lambda: called(blocks, whole), len(black))

    grey = replace(s, model=Grey(s.model).eval(), x=s.x.mean(1, keepdim=True), attribution=s.map[:, None])
    def removed(order):
        metric = m.ROAD([100*q for q in ROAD_FRACTIONS], noise=0., **plain)
        return [*metric(model=grey.model, x_batch=grey.x.numpy(), y_batch=c, a_batch=order).values()]
    def as_right(_, theirs): return np.abs(np.array([_right(grey, ranks(v)) for v in (s.map, -s.map)]) - np.array(theirs)).max()
    yield Case('ROAD', lambda: road(grey.model, grey.x, s.map, s.target, noise=0.), lambda: [removed(a), removed(-a)],
               2*len(ROAD_FRACTIONS), as_right)

    def moves(): return iter((MOVE*(2*noise(range(B), (DRAWS, *s.x.shape[1:]), uniform=True) - 1)).movedim(1, 0).flatten(2).numpy())
    def moved():
        each = moves()
        metric = m.MaxSensitivity(nr_samples=DRAWS, perturb_func=lambda arr, **_: arr + next(each), **plain)
        return called(metric, None, explain_func=of)
    yield Case('sensitivity-max', lambda: max_sensitivity(lambda v: gradient(s.model, v, s.target), s.x, MOVE, DRAWS), moved, DRAWS)

    def ours(): return [rank_correlation(s.map, gradient(randomised(s.model, (k - .5)/count), s.x, s.target)) for k in range(1, count + 1)]
    def theirs(): return [*called(m.MPRT(**plain), explain_func=of).values()][1:]
    yield Case('cascading randomisation', ours, theirs, count, lambda _, t: np.abs(np.array(_cascade(s, m)) - np.array(t)).max())

CASES = {'Captum': captum, 'pytorch-grad-cam': grad_cam, 'Quantus': quantus}

def worked(f):
    "Seconds of the processor that `f` takes, which do not depend on what else the machine does."
    start = process_time(); f()
    return process_time() - start

def compared(s, rounds):
    "A line of the table for each metric and package that has it."
    for peer, (package, name) in PEERS.items():
        try: module = import_module(name)
        except ImportError:
            print(f'{peer} is left out; pip install {package}', file=sys.stderr)
            continue
        for case in CASES[peer](s, module):
            apart = case.apart(case.ours(), case.theirs())
            times = turns(dict(ours=lambda: worked(case.ours), theirs=lambda: worked(case.theirs)), rounds)
            found = row('metrics', f'{case.what}, {peer}', times['ours'], times['theirs'], LIMIT, case.passes*len(s.x), least=True)
            print(f' {found["what"]}: {found["ratio"]:.2f}', file=sys.stderr)
            yield found | dict(apart=float(apart))


def report(table, on, rounds, s):
    about = (f'{on["device"]}; torch {on["torch"]}; mini_resnet, {len(s.x)} images of {s.x.shape[-1]} pixels, one map of each; {rounds} '
             "rounds. `ms`: ours, per pass of an image. Ratios, medians of the rounds' with their smallest and largest, are how many times "
             'as fast ours are. `apart`: how far the numbers are apart at most, where they are the same by definition.')
    return f'# Metrics beside other packages\n\n{about}\n\n' + table.to_markdown(index=False, floatfmt='.3g') + '\n'

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='one round: that it runs, not what it measures')
    p.add_argument('--rounds', type=int, default=7, help='turns after the one to warm up (default: %(default)s)')
    p.add_argument('--side', type=int, default=SIDE, help='of the images (default: %(default)s)')
    p.add_argument('--images', type=int, default=2, help='how many, at once (default: %(default)s)')
    p.add_argument('--out', default='figures/benchmarks', help='folder for the table')
    a = p.parse_args()
    warnings.filterwarnings('ignore')
    reuse_memory()  # as `prepare` has it: what new pages cost differs from day to day
    rounds, out, s = 1 if a.quick else a.rounds, Path(a.out), scene(a.side, a.images)
    out.mkdir(parents=True, exist_ok=True)
    table, on = pd.DataFrame(compared(s, rounds)), machine('cpu')
    text = report(table, on, rounds, s)
    (out/'metrics.md').write_text(text)
    (out/'metrics.json').write_text(json.dumps(dict(machine=on, table=table.to_dict('records')), indent=1) + '\n')
    print('\n' + text)

if __name__ == '__main__': main()

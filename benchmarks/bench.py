"""python benchmarks/bench.py [--quick] [--rounds N] [--device cuda] [--out figures/benchmarks] [--only floors|sizes]

Speed and memory, side by side: each method against its own floor (the bare gradient calls of the prepared network), against Captum and
PAIR's `saliency`, the metrics against bare forwards, Pillow and pytorch-msssim, a whole image of a study, and how time and memory scale.
Whatever is compared runs in turns, other packages in a process of their own, and the ratio is the median of the rounds' ratios, since
machines are noisy. The network is torchvision's MobileNetV2 with random weights, which are as fast as trained ones and need no download;
the photographs are scikit-image's."""
import argparse, importlib.metadata, json, os, platform, statistics, subprocess, sys, time
from dataclasses import replace
from pathlib import Path

os.environ.setdefault('OMP_WAIT_POLICY', 'passive')
import numpy as np, pandas as pd, torch
from pytorch_msssim import ms_ssim
from torch import nn

from idgi_repro.method.attribution import attribute, saliency
from idgi_repro.method.gradients import evaluating, predict, prepare, probability
from idgi_repro.method.guided import GuidedPath
from idgi_repro.method.information import CODECS, _cores, _pool, _size, information_curves
from idgi_repro.method.metrics import insert, insertion, ranks
from idgi_repro.method.paths import BlurPath, StraightPath
from idgi_repro.method.recalibration import Mean, ValidInterpolations, ValidReferences
from idgi_repro.method.references import AdversarialPath, ReferencePath, noise_references, other_classes
from idgi_repro.method.rules import idgi, riemann
from idgi_repro.papers.idgi import PAPER
from idgi_repro.study.embedded import PHOTOGRAPHS
from idgi_repro.study.images import Photo, load_batch
from idgi_repro.study.models import Network
from idgi_repro.study.scene import Subject, gradients_of, maps_of, views
from idgi_repro.study.shard import Shard, rows_of

LIMITS = {'IG walk': 1.05, 'BlurIG walk': 1.05, 'GIG walk': 1.10, 'reference lines': 1.10, 'adversarial lines': 1.10,
          'scoring': 1.15}                                                            # at most, over the floor
FASTER = {'IG, Captum': 1.75, 'IG, PAIR': None, 'GIG, PAIR': 2.6, 'BlurIG, PAIR': 3.7}  # at least


def network(device, width=224):
    from torchvision.models import mobilenet_v2
    torch.manual_seed(0)
    module = mobilenet_v2(weights=None).eval().requires_grad_(False).to(device)
    return Network('mobilenet_v2, random weights', module, resize=round(width*232/224), crop=width)

def photographs(net, count, device):
    import skimage.data
    folder = Path(skimage.data.__file__).parent
    items = [Photo(folder/f'{name}.png') for name in PHOTOGRAPHS]
    items = (items*count)[:count]
    return items, load_batch(net, items).pixels.to(device)

def seen(net, pixels):
    "The photographs as methods see them, with the classes that the network sees."
    return Subject(net, pixels, predict(net.module, net.normalize(pixels)).argmax(1))

def wait(device):
    if device == 'cuda': torch.cuda.synchronize()

def seconds(f, device):
    "How long `f` takes, or what it says that it took elsewhere."
    wait(device); start = time.perf_counter(); told = f(); wait(device)
    return told if isinstance(told, float) else time.perf_counter() - start

def turns(contenders, rounds, device='cpu'):
    "Seconds of every contender in every round, run in turns after one round to warm up."
    times = {k: [] for k in contenders}
    for r in range(rounds + 1):
        for k, f in contenders.items():
            took = seconds(f, device)
            if r: times[k].append(took)
        print('.', end='', file=sys.stderr, flush=True)
    return times

def row(section, what, ours, floor, limit, calls, least=False):
    "A line of the table; `calls` are the points or images that the time is for."
    ratios = [(b/a if least else a/b) for a, b in zip(ours, floor)]
    ratio = statistics.median(ratios)
    met = '' if limit is None else 'yes' if (ratio >= limit if least else ratio <= limit) else 'no'
    ms = [1000*statistics.median(v)/calls for v in (ours, floor)]
    wanted = '' if limit is None else f'{"≥" if least else "≤"} {limit}'
    times = dict(ms=ms[0], other_ms=ms[1], ratio=ratio, low=min(ratios), high=max(ratios))
    return dict(section=section, what=what, **times, wanted=wanted, met=met)

def bare(model, x, c, points):
    "The gradient calls that a walk cannot do without, and nothing else."
    with evaluating(model), torch.enable_grad():
        for _ in range(points):
            v = x.detach().requires_grad_()
            torch.autograd.grad(probability(model(v), c).sum(), v)


RULES = riemann, idgi

def floors(s, rounds, n, batch, device):
    "(a) Each method with both rules over its bare gradient calls, in the same batches."
    x, c, steps, B = s.x, s.target, [n//16, n//8, n//4, n//2, n], len(s.x)
    fast, block = prepare(s.net.module, x[:2]), max(1, batch//B)
    xs, cs = x.repeat(block, 1, 1, 1), c.repeat(block)
    go = lambda path, steps: attribute(fast, x, c, path, steps, RULES, batch_size=batch)
    times = turns({
        'floor': lambda: bare(fast, xs, cs, n//block), 'IG walk': lambda: go(StraightPath(s.black), steps),
        'BlurIG walk': lambda: go(BlurPath(), steps), 'GIG floor': lambda: bare(fast, x, c, n//2),
        'GIG walk': lambda: go(GuidedPath(s.black), [n//2])}, rounds, device)
    yield row('over the floor', 'IG walk', times['IG walk'], times['floor'], LIMITS['IG walk'], B*n)
    yield row('over the floor', 'BlurIG walk', times['BlurIG walk'], times['floor'], LIMITS['BlurIG walk'], B*n)
    yield row('over the floor', 'GIG walk', times['GIG walk'], times['GIG floor'], LIMITS['GIG walk'], B*(n//2))


def several(s, rounds, batch, device):
    "(a) 50 back-propagations of one image, three rules, over its bare gradient calls in the same batches; a step of AGI's has two."
    x, c, rules = s.x[:1], s.target[:1], (Mean(), ValidReferences(), ValidInterpolations())
    fast, classes = prepare(s.net.module, s.x[:2]), predict(s.net.module, x).shape[1]
    noisy = ReferencePath(noise_references(s.pixels[:1], s.seeds[:1], 10, s.net.normalize), 5)
    towards = AdversarialPath(other_classes(s.seeds[:1], c, 5, classes), 10, normalize=(s.net.mean, s.net.std))
    def floor(*passes): return lambda: [bare(fast, x.repeat(n, 1, 1, 1), c.repeat(n), 1) for n in passes]
    go = lambda path: lambda: attribute(fast, x, c, path, rules=rules, batch_size=batch)
    passes = [len(p) for p in torch.arange(noisy.steps).split(batch)], [towards.classes.shape[1]]*2*towards.m
    times = turns({
        'reference lines': go(noisy), 'floor of reference lines': floor(*passes[0]),
        'adversarial lines': go(towards), 'floor of adversarial lines': floor(*passes[1])}, rounds, device)
    for what, points in zip(('reference lines', 'adversarial lines'), map(sum, passes)):
        yield row('over the floor', what, times[what], times[f'floor of {what}'], LIMITS[what], points)


class Probability(nn.Module):
    def __init__(self, net): super().__init__(); self.net = net
    def forward(self, x): return self.net(x).softmax(1)

def _old_quantile():
    "PAIR's package calls an argument of NumPy's by a name that is gone."
    quantile = np.quantile
    np.quantile = lambda *a, interpolation=None, **k: quantile(*a, **k, **({'method': interpolation} if interpolation else {}))

def others(s, n, batch):
    "The same maps by Captum and by PAIR's package, as their users would call them, on the network as it is."
    import captum.attr, saliency.core as pair
    _old_quantile()
    x, c, black = s.x, s.target, s.black
    plain, dark = Probability(s.net.module), black[0].permute(1, 2, 0).cpu().numpy()
    def gradients(images, call_model_args=None, expected_keys=None):
        v = torch.from_numpy(np.ascontiguousarray(np.moveaxis(np.asarray(images), -1, 1))).float().to(x).requires_grad_()
        g, = torch.autograd.grad(plain(v)[:, call_model_args].sum(), v)
        return {pair.INPUT_OUTPUT_GRADIENTS: np.moveaxis(g.cpu().numpy(), 1, -1)}
    def each(method, **options):
        for i in range(len(x)): method().GetMask(x[i].permute(1, 2, 0).cpu().numpy(), gradients, int(c[i]), **options)
    theirs, options = captum.attr.IntegratedGradients(plain), dict(n_steps=n, internal_batch_size=batch, method='riemann_left')
    return {'Captum': lambda: theirs.attribute(x, black.expand_as(x), target=c, **options),
            'PAIR IG': lambda: each(pair.IntegratedGradients, x_baseline=dark, x_steps=n, batch_size=batch),
            'PAIR GIG': lambda: each(pair.GuidedIG, x_baseline=dark, x_steps=n, fraction=.5, max_dist=1.),
            'PAIR BlurIG': lambda: each(pair.BlurIG, max_sigma=50, steps=n, batch_size=batch)}

def other(device, n, batch, B):
    "A process for the other packages alone, so that they run as their users run them: takes a name a line, answers with seconds."
    net = network(device)
    known = others(seen(net, photographs(net, B, device)[1]), n, batch)
    for line in sys.stdin:
        print(seconds(known[line.strip()], device), flush=True)

COMPARED = (('IG, Captum', 'IG', 'Captum'), ('IG, PAIR', 'IG', 'PAIR IG'), ('GIG, PAIR', 'GIG', 'PAIR GIG'),
            ('BlurIG, PAIR', 'BlurIG', 'PAIR BlurIG'))

def peers(s, rounds, n, batch, device):
    "(b) Each method against the others', in turns, each package in its own process."
    argv = [sys.executable, __file__, '--other', str(n), str(len(s.x)), '--device', device, '--points', str(batch)]
    pipes = dict(stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, bufsize=1)
    with subprocess.Popen(argv, **pipes) as process:
        def asked(name):
            print(name, file=process.stdin, flush=True)
            return float(process.stdout.readline())
        fast = prepare(s.net.module, s.x[:2])
        ours = lambda path: lambda: attribute(fast, s.x, s.target, path, (n,), RULES, batch_size=batch)
        theirs = lambda name: lambda: asked(name)
        times = turns({
            'IG': ours(StraightPath(s.black)), 'Captum': theirs('Captum'), 'PAIR IG': theirs('PAIR IG'), 'GIG': ours(GuidedPath(s.black)),
            'PAIR GIG': theirs('PAIR GIG'), 'BlurIG': ours(BlurPath()), 'PAIR BlurIG': theirs('PAIR BlurIG')}, rounds, device)
        process.stdin.close()
    for what, a, b in COMPARED: yield row('faster than', what, times[a], times[b], FASTER[what], len(s.x)*n, least=True)


def _material(s, maps, blurred):
    "What scoring cannot do without: the inputs of the forward passes, the pictures that become PNGs, and pairs for MS-SSIM."
    K, B = len(maps), len(s.x)
    places, counts = ranks(maps).flatten(0, 1)[:, None], torch.arange(1, 24)*(s.x[0, 0].numel()//24)
    shown = torch.cat([insert(s.pixels[i%B][None], blurred[i%B][None], places[i][None], counts)[:, 0] for i in range(K*B)])
    whole = s.pixels.repeat_interleave(23, 0).repeat(K, 1, 1, 1)
    pictures = [*(shown*255).to(torch.uint8).permute(0, 2, 3, 1).contiguous().cpu().numpy()]
    return s.net.normalize(torch.cat([shown, shown[:K*B*19]])), pictures, (shown, whole)

def scoring(s, rounds, batch, device):
    "(c) Insertion, SIC and AIC, entropy and MS-SSIM, of ten maps of an image, over what they are made of."
    fast, x, c = prepare(s.net.module, s.x[:2]), s.x, s.target
    walked = attribute(fast, x, c, StraightPath(s.black), (2, 4, 6, 8, 12), RULES, batch_size=batch)
    maps = torch.stack([saliency(v) for v in walked.values()])
    blurred = BlurPath().at(s.pixels, torch.tensor([.4]))[0].clamp(0, 1)
    inputs, pictures, pairs = _material(s, maps, blurred)
    nhwc = lambda v: v.to(memory_format=torch.channels_last)
    def ours():
        places = ranks(maps)
        insertion(fast, x, maps.unbind(), c, s.black, batch, places=places).score
        found = information_curves(fast, s.pixels, blurred, maps.unbind(), c, s.net.normalize, batch_size=batch, places=places)
        for curve in ('sic_entropy', 'aic_entropy', 'sic_msssim', 'aic_msssim'): getattr(found, curve)
    def similar():
        for a, b in zip(*(v.split(batch) for v in pairs)): ms_ssim(nhwc(a), nhwc(b), data_range=1, size_average=False)
    with torch.no_grad():
        times = turns({'ours': ours, 'forwards': lambda: predict(fast, inputs, batch),
                       'png': lambda: [*_pool(_cores()).map(lambda p: _size(p, CODECS['png']), pictures)], 'ms-ssim': similar},
                      rounds, device)
    calls, parts = len(maps)*len(x), ('forwards', 'png', 'ms-ssim')
    floor = [sum(t) for t in zip(*(times[k] for k in parts))]
    yield row('over the floor', 'scoring', times['ours'], floor, LIMITS['scoring'], calls)
    for k in parts: yield row('of which', k, times[k], floor, None, calls)


WHOLE = [m.name for m in PAPER.metrics if not m.measurement.walks and not m.measurement.reference] # measured of the maps as they are

def whole(s, items, rounds, steps, batch, device):
    "(d) One image of a study: all methods, five step counts, and all metrics but stability and references."
    crop = s.net.crop
    fast = replace(s.net, module=prepare(s.net.module, s.net.normalize(torch.rand(2, 3, crop, crop, device=device))))
    shard = Shard(steps=steps, metrics=WHOLE).of(PAPER)
    about = [dict(name=str(i), target=int(t), confident=True, seed=i) for i, t in enumerate(s.target)]
    versions, subject = views(s.net, items, device), replace(s, net=fast)
    gradients = gradients_of(PAPER, shard.methods, steps, shard.protocol)
    times = turns({'all': lambda: rows_of((fast, s.net), versions, about, shard, PAPER, batch_size=batch),
                   'maps': lambda: maps_of(PAPER, shard.methods, subject, steps, batch_size=batch),
                   'gradients': lambda: bare(fast.module, s.x, s.target, gradients)}, rounds, device)
    what = f'maps and metrics, {", ".join(map(str, steps))} steps'
    yield row('a whole image', what, times['all'], times['gradients'], None, len(items))
    yield row('a whole image', 'of which maps', times['maps'], times['gradients'], None, len(items))


STATUS = Path('/proc/self/status')

def status(what):
    "What Linux says of this process's memory, in MiB."
    return next(int(l.split()[1]) for l in STATUS.read_text().splitlines() if l.startswith(what))/1024

def high_water():
    "Largest resident memory of this process so far, in MiB."
    if STATUS.exists(): return status('VmHWM')      # Linux hands `ru_maxrss` down from the parent, so it is asked for otherwise there
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/(2**20 if sys.platform == 'darwin' else 1024)

def one(n, B, side, device, batch):
    "A walk in this process: seconds, and the peak of its memory in MiB."
    net = network(device, side)
    s = Subject(net, photographs(net, B, device)[1], torch.arange(B, device=device))
    model = prepare(net.module, s.x[:2])
    walk = lambda n: attribute(model, s.x, s.target, StraightPath(s.black), (n,), RULES, batch_size=batch)
    walk(min(n, max(1, batch//B)))
    took = seconds(lambda: walk(n), device)
    peak = torch.cuda.max_memory_allocated()/2**20 if device == 'cuda' else high_water()
    print(json.dumps(dict(seconds=took, peak=peak)))

SIZES = dict(n=(8, 32, 128, 512, 1024), batch=(1, 4, 16, 64), side=(96, 160, 224, 320, 448))
QUICK_SIZES = dict(n=(8, 64), batch=(1, 4), side=(96, 224))

def scale(device, quick, batch):
    "(e) Time and memory by number of segments, batch and image side, each in a process of its own."
    for what, values in (QUICK_SIZES if quick else SIZES).items():
        for v in values:
            a = dict(n=8, batch=1, side=224) | {what: v}
            points = 8 if what == 'n' else batch        # as many per pass for 8 segments as for 1024
            argv = [sys.executable, __file__, '--one', *map(str, a.values()), '--device', device, '--points', str(points)]
            runs = []
            for _ in range(3 if what == 'n' and not quick else 1):      # the peak of one process and the next differ by some 5 %
                runs.append(json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout))
                print('.', end='', file=sys.stderr, flush=True)
            took, peak = (statistics.median(r[k] for r in runs) for k in ('seconds', 'peak'))
            yield dict(by=what, **a, ms_per_point=1000*took/a['n']/a['batch'], peak_mib=peak)


def processor():
    info = Path('/proc/cpuinfo')
    if not info.exists(): return platform.processor()
    return next((l.split(':')[1].strip() for l in info.read_text().splitlines() if l.startswith('model name')), '')

PACKAGES = 'torch', 'torchvision', 'numpy', 'pillow', 'captum', 'saliency', 'pytorch-msssim'

def machine(device):
    name = torch.cuda.get_device_name() if device == 'cuda' else f'{processor()}, {torch.get_num_threads()} threads'
    return dict(device=name, python=platform.python_version()) | {p: importlib.metadata.version(p) for p in PACKAGES}

def picture(table, scales, title):
    import matplotlib.pyplot as plt, seaborn as sns
    sns.set_theme('paper', 'whitegrid')
    blue, red = '#004488', '#BB5566'
    fig, axes = plt.subplots(1, 3, figsize=(10, 3.2), layout='constrained', width_ratios=[1, 1, 1.1])
    panels = (('over the floor', 'time over that of the bare calls', 'wanted by this project: at most', blue),
              ('faster than', 'times as fast', 'wanted by this project: at least', red))
    for ax, (section, label, limit, colour) in zip(axes, panels):
        part = table[table.section == section]
        y, spread = range(len(part))[::-1], [part.ratio - part.low, part.high - part.ratio]
        ax.barh(y, part.ratio, color=colour, height=.55, xerr=spread, error_kw=dict(lw=1, capsize=2))
        wanted = pd.to_numeric(part.wanted.str[2:])
        for i, r, w in zip(y, part.ratio, wanted):
            ax.text(part.high.max()*1.08, i, f'{r:.2f}', va='center', fontsize=7.5)
            ax.vlines(w, i - .4, i + .4, color='k', lw=2, label=limit)
        ax.set(yticks=list(y), yticklabels=part.what, xlabel=label, xlim=(0, part.high.max()*1.25), ylim=(-.6, len(part) - .4))
        ax.axvline(1, color='k', lw=.8)
        ax.grid(axis='y', visible=False)
        ax.legend(*(found[:1] for found in ax.get_legend_handles_labels()), loc='lower center', bbox_to_anchor=(.5, 1), frameon=False)
    by_n = scales[scales.by == 'n']
    axes[2].plot(by_n.n, by_n.peak_mib, 'o-', color=blue)
    axes[2].set_xscale('log', base=2)
    axes[2].set(xlabel='number of segments n', ylabel='peak memory (MiB)', ylim=(0, by_n.peak_mib.max()*1.3), xticks=by_n.n,
                xticklabels=by_n.n)
    axes[2].minorticks_off()
    fig.suptitle(title, fontsize=9)
    return fig

def title(on): return f'{on["device"]}; torch {on["torch"]}; MobileNetV2, 224 pixels'

def report(table, scales, on, rounds, points):
    "All that was measured, as Markdown."
    by_n = scales[scales.by == 'n']
    peak = f'{by_n.peak_mib.iloc[-1]/by_n.peak_mib.iloc[0]:.3f} (wanted ≤ 1.05)'
    about = (f'{title(on)}; {rounds} rounds, batches of {points} points. `ms`: ours, per point, per map (scoring) or per image. Ratios '
             "are medians of the rounds', with their smallest and largest; what is `over the floor` has twice the rounds, and other "
             'packages run in a process of their own. `wanted` is the limit that this project sets itself.')
    size = (f'Peak memory of a walk at n = {by_n.n.iloc[-1]} over n = {by_n.n.iloc[0]}, 8 points per pass: {peak}, each the median of '
            'three processes, or of one if quick.')
    parts = [f'# Benchmarks\n\n{about}\n', table.to_markdown(index=False, floatfmt='.2f'), f'\n## Time and memory by size\n\n{size}\n',
             scales.to_markdown(index=False, floatfmt='.1f'), '\n' + ', '.join(f'{k} {v}' for k, v in on.items()) + '\n']
    return '\n'.join(parts)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--quick', action='store_true', help='few rounds and steps: that it runs, not what it measures')
    p.add_argument('--device', default='cpu', help='cpu or cuda')
    p.add_argument('--out', default='figures/benchmarks', help='folder for the table, the figure and the numbers')
    p.add_argument('--points', type=int, default=32, help='points per pass (default: %(default)s)')
    p.add_argument('--rounds', type=int, default=5, help='turns after the one to warm up (default: %(default)s)')
    p.add_argument('--only', choices=('floors', 'sizes'), help='only walks over their floors, or time and memory by size; the rest is kept')
    p.add_argument('--one', nargs=3, type=int, help=argparse.SUPPRESS)
    p.add_argument('--other', nargs=2, type=int, help=argparse.SUPPRESS)
    a = p.parse_args()
    if a.one: return one(*a.one, a.device, a.points)
    if a.other: return other(a.device, a.other[0], a.points, a.other[1])
    try: on = machine(a.device)
    except importlib.metadata.PackageNotFoundError as e: p.error(f'{e.name} is not installed; `make bench` installs what is measured here')
    rounds, n, B = (1, 16, 2) if a.quick else (a.rounds, 32, 8)
    out, name = Path(a.out), 'cuda' if a.device == 'cuda' else 'cpu'
    out.mkdir(parents=True, exist_ok=True)
    kept = {}
    if a.only:
        if not (out/f'{name}.json').exists():
            p.error(f'{out} holds no {name}.json whose other sections could be kept; leave out --only')
        kept = json.loads((out/f'{name}.json').read_text())
    lines = kept.get('table')
    if a.only != 'sizes':
        net = network(a.device)
        items, pixels = photographs(net, B, a.device)
        s, how = seen(net, pixels), (a.points, a.device)
        lines = [*floors(s, 2*rounds-1, n, *how), *several(s, 2*rounds-1, *how)]
        if a.only: lines += kept['table'][len(lines):]
        else: lines += [*peers(s, max(1, rounds-2), n//2, *how), *scoring(s[:2], rounds, *how),
                        *whole(s[:2], items[:2], 1, (2, 4) if a.quick else PAPER.steps, *how)]
    scales = kept['scales'] if a.only == 'floors' else scale(a.device, a.quick, a.points)
    table, scales = pd.DataFrame(lines), pd.DataFrame(scales)
    text = report(table, scales, on, rounds, a.points)
    (out/f'{name}.md').write_text(text)
    (out/f'{name}.json').write_text(json.dumps(dict(machine=on, table=lines, scales=scales.to_dict('records')), indent=1) + '\n')
    fig = picture(table, scales, title(on))
    for f in ('png', 'svg'): fig.savefig(out/f'{name}.{f}', dpi=150)
    print('\n' + text)

if __name__ == '__main__': main()

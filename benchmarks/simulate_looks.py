"""python benchmarks/simulate_looks.py [--runs 1000] [--out benchmarks/simulate_looks.csv]

How often a study that goes on until its claims are decided has any false verdict among all of its claims, at any look. Scores are made up,
of two networks on the same images: with normal, skewed and rare differences and with curves; claims are about means, medians, shares of
images, counts of cells, and changes with the number of steps. Setting `none`: IDGI changes nothing. Setting `mixed`: it raises the scores
of IG by much, lowers those of Guided IG by little, and changes nothing of Blur IG's."""
import argparse, time
from dataclasses import replace
from itertools import product

import numpy as np, pandas as pd

from idgi_repro.papers.idgi import PAPER
from idgi_repro.records import Claim, Measurement, Metric
from idgi_repro.report.claims import at_level, gain, lower, lowered, moved, positive, samples_of, shares, sizes, tested
from idgi_repro.report.looks import level
from idgi_repro.report.statistics import median_area
from idgi_repro.study.parameters import FIRST, looks

IMAGES, NETWORKS, METHODS, X = 512, ('a', 'b'), ('ig', 'gig', 'blurig'), np.linspace(0, 1, 11)
SETTINGS = dict(none=dict(ig=0., gig=0., blurig=0.), mixed=dict(ig=.8, gig=-.15, blurig=0.)) # in standard deviations of the difference
SD, SCORE, RARE = .1, .5, .1 # of a difference; a base method's mean score; the share of images of the rare kind
MADE = Measurement('made-up', None)
METRICS = (*(Metric(m, m, '', MADE) for m in ('normal', 'skewed', 'rare')), Metric('curve', 'curve', '', MADE, statistic=median_area))

def right(x): return {0: (), 1: ('supported',), -1: ('contradicted',)}[int(np.sign(round(x, 9)))]

def below(metric, effect):
    "Whether more or fewer than half of the images are lower."
    return -effect if metric == 'normal' else .5 - np.exp(-(1 - effect)) # of effect + E - 1, with E of the exponential distribution

def claims(effects):
    "The claims, and which verdicts of each are right."
    claim = lambda *a, **kw: Claim('made up', *a, **kw)
    change = {m: [max(e, 0), 0] if any(effects.values()) else [0, 0] for m, e in effects.items()}   # of IDGI beyond the base's, which is SD
    for m, e in effects.items():
        own, own_share = change[m][0], (SD + SD*change[m][0])/(SCORE + SD*e) - SD/SCORE
        if not any(effects.values()): own_share = 0
        for c in METRICS: yield claim(f'gain {c.name} {m}', gain, (c.name,), (f'{m}+idgi',)), right(e)
        for c in ('normal', 'skewed'): yield claim(f'lower {c} {m}', lower, (c,), (f'{m}+idgi',), limit=.5), right(below(c, e))
        yield claim(f'size {m}', moved, ('normal',), (f'{m}+idgi',), sizes), right(own)
        yield claim(f'share {m}', moved, ('normal',), (f'{m}+idgi',), shares), right(own_share)
    everything = tuple(c.name for c in METRICS), tuple(f'{m}+idgi' for m in METHODS)
    yield claim('most', gain, *everything, positive, .5), right(np.mean([e > 0 for e in effects.values()]) - .5)
    yield claim('not all', gain, *everything, lowered, .5), right(any(e < 0 for e in effects.values()) - .5)

def made(rng, effects):
    "Rows of all images, image by image."
    frames, changes = [], any(effects.values())
    for network, m, idgi, steps in product(NETWORKS, METHODS, (False, True), (8, 128)):
        e = effects[m]*idgi
        moves = SD*(1 + max(e, 0))*changes*(steps == 8)                                  # from the fewest to the most steps
        noise = rng.normal(0, SD/2**.5, IMAGES)
        frame = pd.DataFrame(dict(name=np.arange(IMAGES), normal=SCORE + e*SD + noise - moves, rare=(rng.random(IMAGES) < RARE + e*SD)*1.))
        frame['skewed'] = SCORE + SD*(e + rng.exponential(size=IMAGES) - 1)*idgi
        area = np.clip(SCORE + e*SD + rng.normal(0, SD/2**.5, IMAGES), .05, .95)
        frame['curve_curve'], frame['curve'] = [*(X**(1/area[:, None] - 1))], area
        frames.append(frame.assign(network=network, data='made-up', target=0, method=f'{m}+idgi' if idgi else m, steps=steps,
                                   protocol='corrected'))
    return pd.concat(frames, ignore_index=True)

def run(rng, effects):
    "The false verdicts of a study, each with its look; and of how many lines there was a verdict."
    claim, truth = zip(*claims(effects))
    paper = replace(PAPER, metrics=tuple(replace(m, column='curve_curve') if m.name == 'curve' else m for m in METRICS),
                    claims=tuple(replace(c, protocols=('corrected',)) for c in claim), networks=(), tables=None, figures=None)
    rows, found = made(rng, effects), {}
    for k, n in enumerate(looks(IMAGES), 1):
        table = tested(samples_of(rows[rows.name < n], paper), paper, at_level(level(k, len(claim))), FIRST)
        for i, v in enumerate(table.verdict):
            if v != 'undecided': found.setdefault(i, (v, n))
    return [(claim[i].statistic, n) for i, (v, n) in found.items() if v not in truth[i]], len(found)/len(claim)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--runs', type=int, default=1000, help='studies in each setting (default: %(default)s)')
    p.add_argument('--out', default='benchmarks/simulate_looks.csv', help='file for the numbers (default: %(default)s)')
    a, lines = p.parse_args(), []
    for name, effects in SETTINGS.items():
        began, runs = time.monotonic(), [run(np.random.default_rng([s, len(name)]), effects) for s in range(a.runs)]
        share = np.mean([bool(false) for false, _ in runs])
        lines.append(dict(setting=name, runs=a.runs, claims=len([*claims(effects)]), looks=len(looks(IMAGES)), any_false=share,
                          standard_error=(share*(1 - share)/a.runs)**.5, decided=np.mean([d for _, d in runs])))
        where = pd.Series([f for false, _ in runs for f in false]).value_counts()
        print(f'{name}: any false verdict in {share:.1%} of {a.runs} runs, {time.monotonic()-began:.0f} s; {where.to_dict()}', flush=True)
    pd.DataFrame(lines).round(4).to_csv(a.out, index=False)

if __name__ == '__main__': main()

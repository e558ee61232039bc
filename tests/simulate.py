"""Made-up results with known effects, for the tests and for `benchmarks/results.py`.

What IDGI adds to a score is written here, and it adds nothing at all to Blur IG: what a report says of that must be undecided.
Every image has a difficulty of its own, more steps help a little, and the published protocol loses 0.02 of every score."""
from itertools import product
from pathlib import Path
import json

import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq

from idgi_repro.files import slug

NETWORKS, PROTOCOLS = ('made_up_a', 'made_up_b'), ('corrected', 'published')
METHODS = ('ig', 'ig+idgi', 'gig', 'gig+idgi', 'blurig', 'blurig+idgi')
SCORES = ['insertion', 'insertion_ratio', 'sic_entropy', 'aic_entropy', 'sic_msssim', 'aic_msssim']
CURVES = SCORES[2:] # which have a column of curves as well
OTHERS = ['stability', 'stability_l1', 'near_zero', 'energy_inside', 'pointing', 'patchiness', 'delta', 'reference']
NO_ENTROPY, NO_CURVES = 'entropy: bytes', 'not confident'


def adds(ig, gig, blurig=0.): return dict(ig=ig, gig=gig, blurig=blurig)


EFFECTS = {c: adds(.05, -.03) for c in SCORES} | dict(
    stability=adds(-.3, .2), stability_l1=adds(-.3, .2), patchiness=adds(.1, -.1), energy_inside=adds(.05, -.03),
    doubling=adds(.02, -.01)) # column: what '+idgi' adds to it, by the method before the +; `doubling`: to every score for each doubling of
                              # the steps, up to nothing at the largest number


def curves(
    areas, # (n,) between 0 and 1
):         # (n, 101) float32 at 0, 0.01, ..., 1
    "Rising curves of these areas, x^(1/A - 1): the median of such curves is the curve of the median area, so the truth is known there too."
    return (np.linspace(0, 1, 101)**(1/np.clip(areas, .05, .95)[:, None] - 1)).astype(np.float32)


def _about(i, protocol):
    "What is known about image number `i`: of every ten, one is not confident and one has no entropy curves."
    return dict(name='image-' + i.astype(str).str.zfill(3), label=i%10, target=i%10, prob=np.where(i%10, .9, .6), confident=i%10 != 0,
                excluded=np.select([i%10 == 0, i%10 == 5], [NO_CURVES, NO_ENTROPY], ''), protocol=protocol)


def _made_up(network, protocol, images, steps, methods, pathless, seed, effects):
    "The rows of one network and protocol, in the order of the images."
    each = [*product(methods, steps), *((m, 0) for m in pathless)]
    rows = pd.DataFrame([(i, *k) for i in range(images) for k in each], columns=['i', 'method', 'steps'])
    image, noise = np.random.default_rng([seed, *network.encode()]), np.random.default_rng([seed, *network.encode(), *protocol.encode()])
    i, n, idgi, base = rows.pop('i'), len(rows), rows.method.str.endswith('+idgi'), rows.method.str.split('+').str[0]
    doublings, more = np.log2(rows.steps.clip(1)), np.log2(rows.steps.clip(1)/max(steps))*(rows.steps > 0)
    added = lambda column: idgi*base.map(effects[column]).fillna(0.)
    made = lambda column, low, high, sd: image.uniform(low, high, images)[i] + added(column) + noise.normal(0, sd, n)
    rows = rows.assign(**_about(i, protocol))
    for c in SCORES: rows[c] = made(c, .3, .7, .02) + .01*doublings + more*added('doubling') - .02*(protocol == 'published')
    rows['insertion_ratio'] = rows.insertion/.9
    for c in CURVES:
        kept = ~rows.excluded.isin([NO_CURVES, NO_ENTROPY] if 'entropy' in c else [NO_CURVES])
        risen = curves(rows[c].to_numpy())
        rows[c] = np.where(kept, np.trapezoid(risen, dx=.01).astype(float), np.nan)
        rows[f'{c}_curve'] = pd.Series([*risen], dtype=object).where(kept, None)
    for c in ('stability', 'stability_l1'): rows[c] = made(c, .8, 1.2, .05)
    for c in ('energy_inside', 'patchiness'): rows[c] = made(c, .3, .6, .05)
    return rows.assign(near_zero=(noise.random(n) < .05)*1., pointing=(rows.energy_inside > .5)*1.,
                       delta=np.where(idgi & (protocol == 'corrected'), 0., noise.normal(0, .01, n)),
                       reference=noise.uniform(.5, 1, n)/rows.steps.clip(1),
                       concentration=base.map(dict(ig=.1, blurig=.8)) + noise.normal(0, .01, images)[i])


def simulate(
    folder:Path,             # results folder, made if need be
    networks=NETWORKS,       # their names
    protocols=PROTOCOLS,     # of each network
    images:int=40,           # per network
    steps=(8, 16, 32),       # numbers of segments
    methods=METHODS,         # names of methods with a path
    pathless=(),             # names of methods without one: one row per image, of 0 steps
    data:str='made-up',      # what rows and manifest say
    skipped=(),              # images and reasons for the manifest
    seed:int=0,              # of everything
    effects=dict(),          # entries of `EFFECTS` to replace
    without=(),              # columns to leave out
    shards:int=1,            # files per network and protocol, each with some of the images
    version:str='0.2.0',     # what the manifest says
    paper:str='idgi',        # likewise
):
    "Writes made-up results with known effects, as `study.shard.run` writes real ones."
    folder.mkdir(parents=True, exist_ok=True)
    metrics = [c for c in (*SCORES, *OTHERS) if c not in without]
    for network, protocol in product(networks, protocols):
        rows = _made_up(network, protocol, images, steps, methods, pathless, seed, EFFECTS | effects)
        table = pa.Table.from_pandas(rows.assign(network=network, data=data).drop(columns=[*without]), preserve_index=False)
        about = dict(paper=paper, network=network, data=data, methods=[*methods, *pathless], metrics=metrics, steps=[*steps],
                     protocol=protocol, images=images, seed=seed, references=0, exact=False, precision='float32')
        edges = np.linspace(0, images, shards + 1).astype(int).tolist()
        for start, stop in zip(edges, edges[1:]):
            manifest = dict(shard=about | dict(start=start, stop=stop), version=version, torch='2.11', pillow='12.0', python='3.11',
                            device='cpu', weights='made-up', code='made-up', seconds=12.5, skipped=skipped, failed=[])
            part = table.slice(start*len(rows)//images, (stop - start)*len(rows)//images)
            part = part.replace_schema_metadata({b'idgi_repro': json.dumps(manifest).encode()})
            pq.write_table(part, folder/(f'{slug(network)}-{protocol}' + f'-{start:05d}'*(shards > 1) + '.parquet'), compression='zstd')

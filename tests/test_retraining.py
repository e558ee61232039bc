"DiffROAR and sanity, from configuration to verdicts."
import json, subprocess, sys
from dataclasses import replace
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch, yaml

from idgi_repro.errors import InputError
from idgi_repro.method.diffroar import SIDES, kept, value_ranks
from idgi_repro.method.sanity import layers, randomised
from idgi_repro.papers.loading import load_paper
from idgi_repro.papers.recalibration import DIFFROAR, SANITY
from idgi_repro.report.claims import claims
from idgi_repro.report.results import read
from idgi_repro.study.retraining import Retraining, gather, material, order, retrain, trained
from idgi_repro.study.shard import Shard, run

REPO = Path(__file__).resolve().parents[1]
SMALL = dict(paper='idgi_repro.papers.recalibration:DIFFROAR', data='embedded:40', train='embedded:200', images=40, tested=20, width=4,
             learned=1, epochs=1, batch=20, steps=[5], threads=1)

def test_graph(tmp_path):
    "One method, share and seed: a job for each side; the second call has nothing to do."
    config = SMALL | dict(methods=['sg'], seeds=[0], percents=[10], out=str(tmp_path/'out'), figures=str(tmp_path/'figures'))
    (tmp_path/'config.yaml').write_text(yaml.dump(config))
    call = lambda *more: subprocess.run([sys.executable, '-m', 'snakemake', '--snakefile', 'workflow/Retraining', '--profile',
        'workflow/profiles/local', '--configfile', str(tmp_path/'config.yaml'), *more], cwd=REPO, capture_output=True, text=True)
    done = call()
    assert done.returncode == 0, done.stderr
    assert '1 networks of width 4 and 2 retrainings: 120 images to learn from' in done.stderr                # the cost, beforehand
    found = sorted(p.name for p in (tmp_path/'out'/'found').glob('*.json'))
    assert found == sorted(f'sg-{s}-10-0.json' for s in SIDES)
    one = json.loads((tmp_path/'out'/'found'/found[0]).read_text())
    assert 0 <= one['accuracy'] <= 1 and len(one['losses']) == 1 and one['steps'] == 5
    assert 'DiffROAR' in (tmp_path/'figures'/'index.html').read_text() and (tmp_path/'figures'/'diffroar-corrected.csv').exists()
    again = call('--dry-run')
    assert 'Nothing to be done' in again.stderr + again.stdout

def test_graph_of_permuted_labels(tmp_path):
    "Two networks for a seed, and a row for each test image and method."
    config = SMALL | dict(paper='idgi_repro.papers.recalibration:PERMUTED', permuted=True, methods=['sg', 'sg+vi'], seeds=[0],
                          out=str(tmp_path/'out'), figures=str(tmp_path/'figures'))
    (tmp_path/'config.yaml').write_text(yaml.dump(config))
    done = subprocess.run([sys.executable, '-m', 'snakemake', '--snakefile', 'workflow/Retraining', '--profile', 'workflow/profiles/local',
                           '--configfile', str(tmp_path/'config.yaml')], cwd=REPO, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    rows, _ = read(tmp_path/'out'/'rows')
    assert '2 networks of width 4' in done.stderr and len(rows) == 2*20 and rows.sanity_rank.between(-1, 1).all()
    assert 'permuted labels' in (tmp_path/'figures'/'index.html').read_text()

def test_killed_retraining_goes_on(tmp_path):
    "Stopped in its second epoch, it ends with the accuracy and the losses of an undisturbed one."
    r = Retraining(**SMALL | dict(methods=('sg',), epochs=3, out=str(tmp_path/'a')))
    m = material(r)
    class Killed(Exception): pass
    def kill(n, seen=[0]):
        seen[0] += n
        if seen[0] > 50: raise Killed
    other = replace(r, out=str(tmp_path/'b'))
    with pytest.raises(Killed): retrain(other, m, DIFFROAR, 'sg', 'top', kill)
    a, b = (json.loads(retrain(v, m, DIFFROAR, 'sg', 'top').read_text()) for v in (r, other))
    assert a == b

def test_rows_have_verdicts(tmp_path):
    "Made-up accuracies in which re-calibration wins: its claims are supported, and those of noise are not."
    r = Retraining(**SMALL | dict(out=str(tmp_path)))
    files = []
    for seed in range(3):
        for percent in (10, 50):
            for i, method in enumerate(DIFFROAR.methods):
                gain = 0 if method.name == 'random' else .1 + .05*('+' in method.name)
                for side in SIDES:
                    v = .3 + gain*(side == 'top') + .001*seed
                    file = tmp_path/f'{seed}-{percent}-{i}-{side}.json'
                    about = dict(method=method.name, side=side, percent=percent, seed=seed)
                    file.write_text(json.dumps(about | dict(accuracy=v, before=.5, steps=30, network='net')))
                    files.append(file)
    rows, _ = read(gather(r, files).parent)
    found = claims(rows, DIFFROAR).frame.set_index('statistic').verdict
    assert (found[found.index.str.startswith('gain')] == 'supported').all()
    assert found['DiffROAR: Random'] != 'supported' and found['DiffROAR: IG-SG'] == 'supported'
    assert found['accuracy with the better side minus that of whole images: IG-SG'] == 'supported'
    with pytest.raises(InputError, match='both sides'): gather(r, files[:1])

@pytest.mark.parametrize('given, word', [
    (dict(percent=0), 'percent is 0'), (dict(percent=100), 'percent is 100'), (dict(train=''), 'needs training images'),
    (dict(width=0), 'width is 0'), (dict(epochs=0), 'epochs is 0'), (dict(images='x'), 'images is')])
def test_refused(given, word):
    with pytest.raises(InputError, match=word): Retraining(**SMALL | given)

def test_refused_images(tmp_path):
    for given, word in ((dict(images=500), '500 are asked for'), (dict(tested=41), '41 are asked for')):
        with pytest.raises(InputError, match=word): material(Retraining(**SMALL | given))
    for name in 'ab': (tmp_path/name).mkdir()
    from PIL import Image
    for i in range(4): Image.new('RGB', (40, 40)).save(tmp_path/'ab'[i % 2]/f'{i}.png')
    with pytest.raises(InputError, match='different classes'): material(Retraining(**SMALL | dict(data=str(tmp_path), tested=4)))
    x = torch.rand(1, 3, 4, 4)
    for share, side, word in ((0, 'top', 'share is 0'), (1, 'top', 'share is 1'), (.5, 'left', "side is 'left'")):
        with pytest.raises(InputError, match=word): kept(x, value_ranks(x), share, side)
    with pytest.raises(InputError, match='NaN'): value_ranks(x*torch.nan)

def test_randomised_from_the_top():
    "Each further share draws the layers of the smaller one anew, and more; the network itself is left alone."
    net = torch.nn.Sequential(*(torch.nn.Linear(4, 4) for _ in range(8)))
    before = [m.weight.clone() for m in net]
    for share, count in ((1e-9, 1), (.5, 4), (.51, 5), (1, 8)):
        other = randomised(net, share)
        assert [not torch.equal(a.weight, b.weight) for a, b in zip(net, other)] == [False]*(8 - count) + [True]*count
    assert all(torch.equal(m.weight, w) for m, w in zip(net, before)) and len(layers(net)) == 8
    for share in (0, 1.1, -1):
        with pytest.raises(InputError, match='share of layers'): randomised(net, share)

def test_sanity_study(tmp_path):
    "A study of the cascade: likeness within its range, noise alike, gradients less so."
    shard = Shard(paper='idgi_repro.papers.recalibration:SANITY', methods=('gradient', 'random'), steps=(5,), images=2, stop=2,
                  data='embedded:20', exact=True, out=str(tmp_path), threads=1)
    rows = pd.read_parquet(run(shard, SANITY)).set_index('method')
    assert rows.sanity_rank.between(-1, 1).all() and (rows.loc['random', 'sanity_rank'] > .999).all()
    assert (rows.loc['gradient', 'sanity_rank'] < .9).all() and np.isfinite(rows.sanity_ssim).all()

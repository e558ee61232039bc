"Networks that a study trains, from configuration to verdicts."
import json, subprocess, sys
from dataclasses import replace
from pathlib import Path

import pytest, torch, yaml

from idgi_repro.errors import InputError
from idgi_repro.papers.densities import PAPER
from idgi_repro.papers.idgi import PAPER as IDGI
from idgi_repro.papers.loading import load_paper
from idgi_repro.report.claims import claims
from idgi_repro.report.results import read
from idgi_repro.study.fitted import Fitting, fitted, found, gathered
from idgi_repro.study.retraining import material
from idgi_repro.study.shard import Shard, run

REPO = Path(__file__).resolve().parents[1]
SMALL = dict(data='embedded:20', train='embedded:40', images=40, tested=20, width=2, epochs=2, batch=20, samples=2, climb=2, threads=1)

def test_graph(tmp_path):
    "Two objectives, one called like the other with a number, and a seed: a judge and two trainings; the second call has nothing to do."
    config = SMALL | dict(methods=['norm', 'norm-81'], seeds=[0], out=str(tmp_path/'out'), figures=str(tmp_path/'figures'))
    (tmp_path/'config.yaml').write_text(yaml.dump(config))
    call = lambda *more: subprocess.run([sys.executable, '-m', 'snakemake', '--snakefile', 'workflow/Fitting', '--profile',
        'workflow/profiles/local', '--configfile', str(tmp_path/'config.yaml'), *more], cwd=REPO, capture_output=True, text=True)
    done = call()
    assert done.returncode == 0, done.stderr
    assert '2 networks of width 2' in done.stderr                             # the cost, beforehand
    assert len([*(tmp_path/'out').glob('*.safetensors')]) == 3
    assert 'implicit densities' in (tmp_path/'figures'/'index.html').read_text() and (tmp_path/'figures'/'gan-corrected.csv').exists()
    again = call('--dry-run')
    assert 'Nothing to be done' in again.stderr + again.stdout
    (tmp_path/'config.yaml').write_text(yaml.dump(config | dict(seeds=[0, 1])))
    more = call('--dry-run')
    assert 'norm-1' in more.stdout and 'norm-0.json' not in more.stdout.split('rule report')[0]   # another seed, and not what stands

def test_a_killed_training_goes_on(tmp_path):
    "Stopped in its second epoch, augmentation and draws of noise included, it ends with the weights of an undisturbed one."
    f = Fitting(**SMALL | dict(epochs=3, out=str(tmp_path/'a')))
    m, other = material(f), replace(f, out=str(tmp_path/'b'))
    class Killed(Exception): pass
    def kill(n, seen=[0]):
        seen[0] += n
        if seen[0] > 50: raise Killed
    with pytest.raises(Killed): fitted(other, m, PAPER, 'score', kill)
    a, b = (fitted(v, m, PAPER, 'score').module.state_dict() for v in (f, other))
    assert all(torch.equal(a[k], b[k]) for k in a)

def test_rows_have_verdicts(tmp_path):
    "Made-up findings of five seeds, in which published score matching is what its variance makes of it."
    f, seeds = Fitting(**SMALL | dict(out=str(tmp_path))), range(5)
    smooth = dict(baseline=.4, score=.6, anti=.5, norm=.45) | {'score+control': .4, 'norm-81': .6}
    columns = {m.name: .5 for m in PAPER.metrics}
    for method, v in smooth.items():
        for s in seeds:
            about = dict(method=method, seed=s, network='made_up_a') | columns | dict(smooth=v + .001*s)
            (tmp_path/f'{method}-{s}.json').write_text(json.dumps(about))
    rows, _ = read(gathered(f, sorted(tmp_path.glob('*.json'))).parent)
    table = claims(rows, PAPER).frame.set_index('statistic')
    said = lambda text: table.verdict[[s for s in table.index if s.startswith(text)][0]]
    assert said('Correlation of neighbours: score matching minus cross-entropy') == 'supported'
    assert said('Correlation of neighbours: score matching minus its like with the control') == 'supported'
    assert said('Correlation of neighbours: anti-score-matching minus cross-entropy') == 'contradicted'

def test_a_trained_network_is_a_network_like_any_other(tmp_path):
    f = Fitting(**SMALL | dict(out=str(tmp_path)))
    fitted(f, material(f), PAPER, 'baseline')
    file, = tmp_path.glob('baseline-*.safetensors')
    shard = Shard(f'cifar_resnet18@{file}', data='embedded:20', methods=('ig',), metrics=('stability',), steps=(8,), images=2, stop=2,
                  out=str(tmp_path/'rows'))
    assert [*run(shard, IDGI).parent.glob('*.parquet')]

@pytest.mark.parametrize('change, said', [(dict(samples=0), 'samples is 0'), (dict(climb=-1), 'climb is -1'),
                                          (dict(train=''), 'training images'),
                                          (dict(methods=('lime',)), "unknown method 'lime'"), (dict(weights='nowhere'), 'nowhere'),
                                          (dict(images=999), '40 images, and 999')])
def test_what_cannot_be(change, said, tmp_path):
    with pytest.raises(InputError, match=said):
        f = Fitting(**SMALL | dict(out=str(tmp_path)) | change)
        for m in f.methods or ('baseline',): found(f, material(f), PAPER, m)

def test_a_study_of_maps_refuses_it():
    done = subprocess.run([sys.executable, '-c', 'import sys; from idgi_repro.cli import main; sys.exit(main())', 'study', '--paper',
                           'densities', '--data', 'embedded:4'],
                          capture_output=True, text=True, cwd=REPO)
    assert done.returncode and 'workflow/Fitting' in done.stderr and 'Traceback' not in done.stderr

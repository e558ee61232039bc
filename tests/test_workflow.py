"The study as a graph: what Snakemake computes is what `run` computes, whatever it is told and whatever happened before."
import subprocess, sys
from pathlib import Path

import pandas as pd, pytest, yaml

from idgi_repro.errors import InputError
from idgi_repro.papers.idgi import PAPER
from idgi_repro.papers.loading import load_paper
from idgi_repro.report.results import result_files
from idgi_repro.study.fitted import Fitting
from idgi_repro.study.parameters import configured, read_config
from idgi_repro.study.retraining import Retraining
from idgi_repro.study.shard import run
from idgi_repro.study.workflow import estimate, shards_of

REPOSITORY = Path(__file__).parent.parent
METHODS = ['ig', 'ig+idgi', 'blurig', 'blurig+idgi']
SMALL = dict(networks=['mini_vgg'], data='embedded:20', images=2, shard_size=1, steps=[2, 4], methods=METHODS[:2],
             metrics=['insertion', 'delta'], protocols=['corrected'], photographs=False)


def graph(folder, config, *options):
    "Snakemake's exit status and all that it said."
    pytest.importorskip('snakemake')
    (folder/'config.yaml').write_text(yaml.safe_dump(config))
    argv = [sys.executable, '-m', 'snakemake', '--snakefile', 'workflow/Snakefile', '--profile', 'workflow/profiles/local',
            '--directory', str(folder), '--configfile', str(folder/'config.yaml'), *options]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_graph_computes_the_shards_and_mends_them(tmp_path):
    config = SMALL | dict(out='results', figures='figures')
    code, said = graph(tmp_path, config)
    assert code == 0, said
    assert (tmp_path/'figures/index.html').read_text().startswith('<!doctype html>')
    files = result_files(tmp_path/'results')
    alone = [run(s, PAPER) for s in shards_of(configured(SMALL | dict(out=str(tmp_path/'alone'))), PAPER)]
    assert len(alone) == 2
    assert sorted(f.name for f in files) == sorted(f.name for f in alone)
    for f in alone: pd.testing.assert_frame_equal(pd.read_parquet(tmp_path/'results'/f.name), pd.read_parquet(f), check_exact=True)

    whole, other = files[0].read_bytes(), files[1].stat().st_mtime_ns
    files[0].write_bytes(whole[:len(whole)//2])
    code, said = graph(tmp_path, config)
    assert code == 0, said
    assert files[0].with_name(files[0].name + '.broken').exists() and files[1].stat().st_mtime_ns == other
    pd.testing.assert_frame_equal(pd.read_parquet(files[0]), pd.read_parquet(tmp_path/'alone'/files[0].name), check_exact=True)


@pytest.mark.parametrize('wrong, message', [
    (dict(image=3), "unknown key 'image' in the configuration"), (dict(steps=['8']), "steps is ['8']; it must be a list of whole numbers"),
    (dict(methods=['lime']), "unknown method 'lime'"), (dict(metrics=['beauty']), "unknown metric 'beauty'"),
    (dict(paper='poem'), "unknown paper 'poem'"), (dict(grids=['closed']), "'grids' is called protocols: 'closed' is 'corrected' now")],
    ids=lambda v: next(iter(v)) if isinstance(v, dict) else '')
def test_a_wrong_configuration_is_told_in_a_line(tmp_path, wrong, message):
    code, said = graph(tmp_path, SMALL | wrong)
    assert code != 0 and message in said and 'Traceback' not in said


def test_a_dry_run_says_what_it_costs(tmp_path):
    large = dict(images=1000, shard_size=64, methods=METHODS, metrics=['insertion', 'aic_entropy'])
    code, said = graph(tmp_path, SMALL | large, '--dry-run')
    assert code == 0 and 'hours' in said and '336,000' in said, said
    assert not (tmp_path/'results').exists()


LISTS = dict(seeds='seed', percents='percent') # what a graph of trainings has a list of, and its record one of

@pytest.mark.parametrize('file', sorted((REPOSITORY/'workflow/config').glob('*.yaml')), ids=lambda f: f.stem)
def test_committed_configurations_are_valid(file):
    "Each belongs to the graph that its paper names."
    asked = read_config(file)
    paper = load_paper(asked.get('paper', 'idgi'))
    if not paper.graph:
        assert estimate(configured(asked), paper).gradients.iloc[-1] > 0
        return
    assert asked.pop('figures').startswith('figures/') and (asked.get('weights') or len(asked['seeds']) >= 3)
    one = {LISTS.get(k, k): v[-1] if k in LISTS else v for k, v in asked.items()}
    record = dict(Retraining=Retraining, Fitting=Fitting)[paper.graph](**one)
    assert [paper.method(m).name for m in record.methods] == list(record.methods)


@pytest.mark.parametrize('text, message', [('images: [', 'cannot be read'), ('- 1', 'names with values'), ('', 'names with values')])
def test_files_that_are_no_configuration(tmp_path, text, message):
    (tmp_path/'c.yaml').write_text(text)
    with pytest.raises(InputError, match=message): read_config(tmp_path/'c.yaml')

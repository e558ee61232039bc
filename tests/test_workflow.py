"The study as a graph: what Snakemake computes is what `run` computes, whatever it is told and whatever happened before."
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import yaml

from idgi_repro.errors import InputError
from idgi_repro.study.shard import Shard, run
from idgi_repro.report.results import result_files
from idgi_repro.study.workflow import configured, estimate, read_config

REPOSITORY = Path(__file__).parent.parent
SMALL = dict(networks=['mini_vgg'], data='embedded:20', images=3, shard_size=2, steps=[2, 4], methods=['ig', 'blurig'], grids=['closed'], stability=False, references=0)


def graph(folder, config, *options):
    "Snakemake's exit status and all that it said."
    pytest.importorskip('snakemake')
    (folder/'config.yaml').write_text(yaml.safe_dump(config))
    argv = [sys.executable, '-m', 'snakemake', '--snakefile', 'workflow/Snakefile', '--profile', 'workflow/profiles/local', '--directory', str(folder), '--configfile', str(folder/'config.yaml'), *options]
    done = subprocess.run(argv, cwd=REPOSITORY, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_the_graph_computes_the_shards_and_mends_them(tmp_path):
    code, said = graph(tmp_path, SMALL | dict(out='results', figures='figures'))
    assert code == 0, said
    assert (tmp_path/'figures/index.html').read_text().startswith('<!doctype html>')
    files = result_files(tmp_path/'results')
    alone = [run(Shard('mini_vgg', 'embedded:20', ('ig', 'blurig'), (2, 4), start=s, stop=min(s+2, 3), images=3, stability=False), tmp_path/'alone') for s in (0, 2)]
    assert sorted(f.name for f in files) == sorted(f.name for f in alone)
    for f in alone: pd.testing.assert_frame_equal(pd.read_parquet(tmp_path/'results'/f.name), pd.read_parquet(f), check_exact=True)

    whole, other = files[0].read_bytes(), files[1].stat().st_mtime_ns
    files[0].write_bytes(whole[:len(whole)//2])
    code, said = graph(tmp_path, SMALL | dict(out='results', figures='figures'))
    assert code == 0, said
    assert files[0].with_name(files[0].name + '.broken').exists() and files[1].stat().st_mtime_ns == other
    pd.testing.assert_frame_equal(pd.read_parquet(files[0]), pd.read_parquet(tmp_path/'alone'/files[0].name), check_exact=True)


@pytest.mark.parametrize('wrong, message', [(dict(image=3), "unknown key 'image' in the configuration"), (dict(steps=['8']), "steps is ['8']; it must be a list of whole numbers"), (dict(methods=['lime']), "unknown methods ['lime']")])
def test_a_wrong_configuration_is_told_in_a_line(tmp_path, wrong, message):
    code, said = graph(tmp_path, SMALL | wrong)
    assert code != 0 and message in said and 'Traceback' not in said


def test_a_dry_run_says_what_it_costs(tmp_path):
    code, said = graph(tmp_path, SMALL | dict(images=1000), '--dry-run')
    assert code == 0 and 'hours' in said and '336,000' in said, said
    assert not (tmp_path/'results').exists()


@pytest.mark.parametrize('file', sorted((REPOSITORY/'workflow/config').glob('*.yaml')), ids=lambda f: f.stem)
def test_committed_configurations_are_valid(file):
    study = configured(read_config(file))
    assert estimate(study).gradients.iloc[-1] > 0


@pytest.mark.parametrize('text, message', [('images: [', 'cannot be read'), ('- 1', 'names with values'), ('', 'names with values')])
def test_files_that_are_no_configuration(tmp_path, text, message):
    (tmp_path/'c.yaml').write_text(text)
    with pytest.raises(InputError, match=message): read_config(tmp_path/'c.yaml')

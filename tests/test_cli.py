"What a user types, and what is answered."
import re
import subprocess
import sys

import pandas as pd
import pytest
from PIL import Image

from idgi_repro.cli import main, notebook
from idgi_repro.data import Embedded


@pytest.fixture
def photo(tmp_path):
    Embedded(8)[7].open().save(tmp_path/'heart.png')
    return str(tmp_path/'heart.png')


def refused(capsys, *argv):
    "The one line that a mistake is answered with."
    assert main(list(argv)) == 2
    said = capsys.readouterr().err.strip()
    assert said.startswith('idgi-repro: ') and 'Traceback' not in said
    return said


@pytest.mark.parametrize('suffix', ['png', 'svg'])
def test_explain_draws_one_figure(tmp_path, photo, suffix):
    assert main(['explain', photo, '--model', 'mini_resnet', '--steps', '4', '--grid', 'study', '--out', str(tmp_path/f'out/maps.{suffix}')]) == 0
    assert [p.name for p in (tmp_path/'out').iterdir()] == [f'maps.{suffix}']
    if suffix == 'png': assert min(Image.open(tmp_path/'out/maps.png').size) > 300
    else: assert 'heart' in (tmp_path/'out/maps.svg').read_text()


def test_explain_another_class_by_name(tmp_path, photo):
    assert main(['explain', photo, '--model', 'mini_vgg', '--steps', '2', '--target', 'star', '--out', str(tmp_path/'maps.svg')]) == 0
    assert 'explained: star' in (tmp_path/'maps.svg').read_text()


@pytest.mark.parametrize('argv, message', [
    (['--model', 'resnet51'], 'unknown network .resnet51.'),
    (['--model', 'no_such_module:f'], 'cannot be imported'),
    (['--target', '10'], 'class 10 is not among'),
    (['--target', '-1'], 'class -1 is not among'),
    (['--target', 'dog'], 'unknown class .dog.'),
    (['--steps', '0'], 'positive whole numbers'),
    (['--grid', 'open'], "'closed' or 'study'"),
    (['--out', 'maps.docx'], 'must end in .png'),
    (['--device', 'cuda:77'], 'device')])
def test_explain_refuses(capsys, photo, argv, message):
    assert re.search(message, refused(capsys, 'explain', photo, *argv))


def test_explain_refuses_photographs_it_cannot_read(capsys, tmp_path):
    (tmp_path/'text.jpg').write_text('not an image')
    (tmp_path/'empty').mkdir()
    assert 'nowhere.jpg' in refused(capsys, 'explain', 'nowhere.jpg')
    assert 'text.jpg' in refused(capsys, 'explain', str(tmp_path/'text.jpg'))
    assert 'no images' in refused(capsys, 'explain', str(tmp_path/'empty'))


def test_explain_refuses_an_unwritable_output(capsys, tmp_path, photo):
    (tmp_path/'file').write_text('')
    assert 'cannot write' in refused(capsys, 'explain', photo, '--steps', '2', '--out', str(tmp_path/'file/maps.png'))


@pytest.mark.parametrize('argv, message', [
    (['--models', 'resnet51'], 'unknown network'),
    (['--models', 'mini_vgg', 'mini_vgg'], 'named once'),
    (['--methods', 'lime'], "unknown methods ..lime"),
    (['--data', 'nowhere'], 'nowhere'),
    (['--steps', '50', '128'], 'do not divide'),
    (['--grids', 'open'], "'closed' or 'study'"),
    (['--images', '0'], 'positive')])
def test_study_refuses(capsys, tmp_path, argv, message):
    assert re.search(message, refused(capsys, 'study', '--out', str(tmp_path/'results'), *argv))
    assert not list(tmp_path.glob('results/*.parquet'))


def test_study_refuses_an_unwritable_output(capsys, tmp_path):
    (tmp_path/'file').write_text('')
    assert 'cannot be made' in refused(capsys, 'study', '--models', 'mini_vgg', '--out', str(tmp_path/'file'))


def test_report_refuses(capsys, tmp_path):
    assert 'no results folder' in refused(capsys, 'report', str(tmp_path/'nowhere'))
    (tmp_path/'empty').mkdir()
    assert 'idgi-repro: ' in refused(capsys, 'report', str(tmp_path/'empty'), '--out', str(tmp_path/'out'))


def test_the_console_script_and_its_help():
    said = subprocess.run([sys.executable, '-c', 'from idgi_repro.cli import main; main()', 'study', '--help'], capture_output=True, text=True)
    assert said.returncode == 0 and '--models' in said.stdout


def test_study_and_report_end_to_end(capsys, tmp_path):
    "Images to page by the commands of the README, through papermill; a second time nothing is computed."
    results, out = tmp_path/'results', tmp_path/'figures'
    argv = ['study', '--data', 'embedded:30', '--models', 'mini_resnet', 'mini_vgg', '--images', '3', '--steps', '2', '4', '--out', str(results)]
    assert main(argv) == 0
    shards = {f: f.stat().st_mtime_ns for f in results.glob('mini*.parquet')}
    rows = pd.concat([pd.read_parquet(f) for f in shards])
    assert len(shards) == 4 and len(rows) == 2*2*3*3*2*2
    capsys.readouterr()
    assert main(argv) == 0
    assert '4 of 4 shards stand already' in capsys.readouterr().err
    assert shards == {f: f.stat().st_mtime_ns for f in results.glob('mini*.parquet')}
    assert main(['report', str(results), '--out', str(out)]) == 0
    page = (out/'index.html').read_text()
    assert 'mini_resnet' in page and 'not ImageNet' in page
    assert list(out.glob('**/*.svg')) and list(out.glob('**/*.csv')) and list(out.glob('**/*.md'))
    made = (out/'index.html').stat().st_mtime_ns
    assert main(['report', str(results), '--out', str(out)]) == 0 and (out/'index.html').stat().st_mtime_ns == made
    min(shards).unlink()
    assert main(['report', str(results), '--out', str(out)]) == 0 and (out/'index.html').stat().st_mtime_ns > made


def test_the_notebooks_are_found(): assert notebook('shard').is_file()

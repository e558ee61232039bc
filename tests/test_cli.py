"What a user types, and what is answered."
import json, re, subprocess, sys, tarfile
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest
from PIL import Image

import idgi_repro
from idgi_repro.cli import main
from idgi_repro.jobs import notebook
from idgi_repro.papers.idgi import PAPER
from idgi_repro.study.images import Embedded
from idgi_repro.study.parameters import Study
from idgi_repro.study.workflow import make_choice, remarks


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
    argv = ['explain', photo, '--model', 'mini_resnet', '--steps', '4', '--protocol', 'published']
    assert main([*argv, '--out', str(tmp_path/f'out/maps.{suffix}')]) == 0
    assert [p.name for p in (tmp_path/'out').iterdir()] == [f'maps.{suffix}']
    if suffix == 'png': assert min(Image.open(tmp_path/'out/maps.png').size) > 300
    else: assert 'heart' in (tmp_path/'out/maps.svg').read_text()


def test_explain_another_class_by_name(tmp_path, photo):
    assert main(['explain', photo, '--model', 'mini_vgg', '--steps', '2', '--target', 'star', '--out', str(tmp_path/'maps.svg')]) == 0
    assert 'explained: star' in (tmp_path/'maps.svg').read_text()


def test_explain_several_photographs(capsys, tmp_path):
    (tmp_path/'in').mkdir()
    for i in range(2): Embedded(2)[i].open().save(tmp_path/f'in/{i}.png')
    (tmp_path/'in/notes.jpg').write_text('no picture')
    asked = ['--steps', '2', '--methods', 'ig+idgi', 'ig', '--overlay', '--save-maps', str(tmp_path/'a/maps.npz')]
    assert main(['explain', str(tmp_path/'in'), 'embedded', *asked, '--out', str(tmp_path/'out')]) == 0
    said, kept = capsys.readouterr(), np.load(tmp_path/'a/maps.npz')
    assert sorted(f.name for f in (tmp_path/'out').iterdir()) == ['0.png', '1.png', 'disc-0-00000.png']
    assert said.out.count('(explained)') == 3 and len(said.out.splitlines()) == 3*6 and 'notes.jpg cannot be read' in said.err
    assert kept['maps'].shape == (3, 2, 192, 192) and kept['methods'].tolist() == ['ig', 'ig+idgi'] and kept['probability'].shape == (3, 10)
    assert np.allclose(kept['maps'][0], kept['maps'][2], atol=1e-5*abs(kept['maps'][0]).max()), 'the same picture, from a file and drawn'


def test_explain_names_imagenets_classes(capsys, tmp_path, photo):
    (tmp_path/'thousand.py').write_text('import torch\nclass Net(torch.nn.Module):\n    def forward(self, x):\n'
                                        '        return torch.cat([x.mean((2, 3)), x.new_zeros(len(x), 997)], 1)\n')
    argv = ['--model', f'{tmp_path}/thousand.py:Net', '--steps', '2', '--methods', 'ig', '--target', 'goldfish']
    assert main(['explain', photo, *argv, '--out', str(tmp_path/'maps.svg')]) == 0
    said = capsys.readouterr().out
    assert all(name in said for name in ('tench\n', 'goldfish  (explained)', 'great white shark'))


@pytest.mark.parametrize('argv, message', [
    (['--model', 'resnet51'], 'unknown network .resnet51.'),
    (['--model', 'no_such_module:f'], 'cannot be imported'),
    (['--target', '10'], 'class 10 is not among'),
    (['--target', '-1'], 'class -1 is not among'),
    (['--target', 'dog'], 'unknown class .dog.'),
    (['--steps', '0'], 'positive whole numbers'),
    (['--protocol', 'open'], "'corrected' or 'published'"),
    (['--paper', 'poem'], 'unknown paper .poem.'),
    (['--out', 'maps.docx'], 'must end in .png'),
    (['embedded', '--out', 'maps.png'], '2 photographs are 2 figures'),
    (['--save-maps', 'maps.npy'], 'must end in .npz'),
    (['--methods', 'lime'], 'unknown method .lime.'),
    (['--paper', 'recalibration', '--methods', 'eg'], 'leave it out'),
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


def dot():
    Image.new('RGB', (2, 2)).save(data := BytesIO(), 'PNG')
    return data.getvalue()


def tar(file, *names):
    with tarfile.open(file, 'w') as t:
        for name in names:
            m = tarfile.TarInfo(name)
            m.size = len(dot())
            t.addfile(m, BytesIO(dot()))
    return file


def table(file, labels, **columns):
    image = pa.array([dict(bytes=dot(), path=None)]*len(labels), pa.struct({'bytes': pa.binary(), 'path': pa.string()}))
    pq.write_table(pa.table(columns or {'image': image, 'label': pa.array(labels, pa.int64())}), file)
    return file


def checked(capsys, status, *argv):
    "What `data check` says, by its left column."
    assert main(['data', 'check', *map(str, argv)]) == status
    said = capsys.readouterr()
    lines = said.out.splitlines()
    assert 'Traceback' not in said.err and all(line[9:10] == ' ' and line[10:11] != ' ' for line in lines)
    return {line[:10].strip(): line[10:] for line in lines}


def test_check_the_official_tar(capsys, tmp_path):
    names = [f'ILSVRC2012_val_0000000{i}.JPEG' for i in (1, 2, 3)]
    tar(tmp_path/'ILSVRC2012_img_val.tar', *names)
    said = checked(capsys, 1, tmp_path)
    assert said['layout'] == 'ILSVRC2012_img_val.tar, read in place' and said['images'] == '3' and said['labels'].startswith('none')
    assert 'classes' not in said
    assert said['to do'].startswith(f'for labels, place ILSVRC2012_devkit_t12.tar.gz, which holds the official labels, in {tmp_path}')
    (tmp_path/'val_annotations.txt').write_text(''.join(f'{n}\tn01440764\n' for n in names))
    assert 'needs wnids.txt beside it' in refused(capsys, 'data', 'check', str(tmp_path))
    (tmp_path/'wnids.txt').write_text('n01440764\nn01443537\n')
    said = checked(capsys, 0, tmp_path)
    assert said['labels'] == 'from val_annotations.txt, in the order of wnids.txt' and said['classes'] == '2'
    assert said['per class'] == '0 to 3' and said['readable'] == '3 of 3 opened'
    assert said['to do'].startswith('for a network of 1000 classes')


def test_check_parquet(capsys, tmp_path):
    table(tmp_path/'validation-00000-of-00002.parquet', [i % 1000 for i in range(49_999)])
    said = checked(capsys, 0, tmp_path)
    assert said['layout'] == 'Parquet, 1 file of 2' and said['to do'] == 'for the whole set open a folder with all 2 files'
    assert said['per class'] == '49 to 50'
    assert said['ImageNet'].endswith("1 class with fewer than 50 ('999' has 49)")
    assert said['readable'] == '20 of 20 opened; --all opens all 49,999'
    table(tmp_path/'validation-00001-of-00002.parquet', [999])
    said = checked(capsys, 0, tmp_path)
    assert said['ImageNet'] == '50,000 images, 50 per class: the complete validation set'
    assert said['per class'] == '50' and 'to do' not in said
    assert checked(capsys, 1, table(tmp_path/'test.parquet', [-1]))['labels'].startswith('none')


def test_check_folders(capsys, tmp_path):
    for i in range(30):
        (tmp_path/'ab'[i % 2]).mkdir(exist_ok=True)
        (tmp_path/'ab'[i % 2]/f'{i:02d}.png').write_bytes(dot() if i != 5 else b'')
    said = checked(capsys, 0, tmp_path)
    assert said['layout'] == 'class folders' and said['labels'] == 'from class folders, sorted'
    assert said['per class'] == '15' and 'ImageNet' not in said
    assert main(['data', 'check', str(tmp_path), '--all']) == 1
    said = capsys.readouterr()
    for text in ('29 of 30 opened\n', '05.png cannot be read', 'copy the unreadable images again'): assert text in said.out
    assert '100%' in said.err
    assert checked(capsys, 1, tmp_path/'a')['labels'].startswith('none')
    assert checked(capsys, 0, 'embedded:7', '--all')['layout'] == 'embedded set'


def test_check_refuses(capsys, tmp_path):
    assert 'no file or folder' in refused(capsys, 'data', 'check', 'nowhere')
    assert 'holds no images' in refused(capsys, 'data', 'check', str(tmp_path))
    file = tar(tmp_path/'ILSVRC2012_img_val.tar', 'a.png', 'b.png')
    file.write_bytes(file.read_bytes()[:1300])
    assert 'ILSVRC2012_img_val.tar cannot be read to its end' in refused(capsys, 'data', 'check', str(tmp_path))
    other = table(tmp_path/'x.parquet', [], picture=['a'])
    assert 'has the columns picture (string)' in refused(capsys, 'data', 'check', str(other))


def test_a_study_says_that_there_are_no_labels(tmp_path, photo):
    study = Study(networks=('mini_resnet',), data=str(tmp_path), out=str(tmp_path/'results'), images=2)
    found = make_choice(study, PAPER, 'mini_resnet')
    assert found['images'] == 1
    said = remarks(study, found)
    assert 'has no labels, so the class that mini_resnet predicts is explained; for labels, place val_annotations.txt' in said[0]
    assert said[1] == 'mini_resnet classifies 1 images correctly, not 2'


def test_the_pace_of_another_number_of_threads_is_measured_anew(tmp_path, monkeypatch):
    used = []
    monkeypatch.setattr('torch.set_num_threads', used.append)
    one = Study(networks=('mini_vgg',), data='embedded:8', out=str(tmp_path/'results'), images=1, threads=1)
    found = make_choice(one, PAPER, 'mini_vgg')
    assert used == [1] and found['threads'] == 1 and make_choice(one, PAPER, 'mini_vgg') == found
    other = make_choice(replace(one, threads=None), PAPER, 'mini_vgg')
    assert other['threads'] is None and other['seconds_per_gradient'] != found['seconds_per_gradient']
    assert other['shards'] == found['shards']


@pytest.mark.parametrize('argv, message', [
    (['--models', 'resnet51'], 'unknown network'),
    (['--models', 'mini_vgg', 'mini_vgg'], 'named twice; name each once'),
    (['--methods', 'lime'], "unknown method .lime"),
    (['--data', 'nowhere'], 'nowhere'),
    (['--steps', '50', '128'], 'do not divide'),
    (['--metrics', 'beauty'], 'unknown metric .beauty'),
    (['--protocols', 'open'], "'corrected' or 'published'"),
    (['--images', '0'], 'images is 0; it must be at least 1')])
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


HEAVY = ('torch', 'torchvision', 'numpy', 'pandas', 'matplotlib', 'papermill', 'pyarrow') # what takes seconds to import
SCRIPT = f"""import sys
sys.path.insert(0, {str(Path(idgi_repro.__file__).parents[1])!r})
from idgi_repro.cli import main
try: status = main()
except SystemExit as e: status = e.code
print('imported', *[m for m in {HEAVY} if m in sys.modules])
sys.exit(status)"""


@pytest.mark.parametrize('argv, option', [(['--help'], 'explain'), (['study', '--help'], '--models'), (['explain', '--help'], '--protocol'),
                                          (['report', '--help'], '--paper')], ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_help_comes_at_once(argv, option):
    "It is timed nowhere: what takes time is what is imported."
    said = subprocess.run([sys.executable, '-c', SCRIPT, *argv], capture_output=True, text=True)
    assert said.returncode == 0 and option in said.stdout and said.stdout.splitlines()[-1] == 'imported', said


AT_ONCE = ['study --grids closed', 'study --config old.yaml', 'study --steps 0', 'study --no-stability', 'explain a.png --grid study']

@pytest.mark.parametrize('argv', [a.split() for a in AT_ONCE], ids=AT_ONCE)
def test_mistakes_are_answered_at_once(argv, tmp_path):
    "All that can be said without the networks."
    (tmp_path/'old.yaml').write_text('grids: [closed]')
    said = subprocess.run([sys.executable, '-c', SCRIPT, *argv], capture_output=True, text=True, cwd=tmp_path)
    assert said.returncode == 2 and said.stderr.startswith('idgi-repro: ') and said.stdout.split() == ['imported'], said


NEW = "'closed' is 'corrected' now, and 'study' is 'published'"

@pytest.mark.parametrize('argv, message', [
    (['study', '--grids', 'closed', 'study'], f'--grids is called --protocols: {NEW}'),
    (['study', '--grids=closed'], f'is called --protocols: {NEW}'),
    (['explain', 'embedded', '--grid', 'study'], f'--grid is called --protocol: {NEW}'),
    (['study', '--no-stability'], '--no-stability is called --metrics'),
    (['study', '--config', 'OLD/grids.yaml'], f"'grids' is called protocols: {NEW}"),
    (['study', '--config', 'OLD/stability.yaml'], "'stability' is called metrics"),
    (['report', 'OLD/results', '--out', 'OLD/out'], "the column protocol ('corrected' was grid 'closed', 'published' was grid 'study')")],
    ids=lambda v: ' '.join(v) if isinstance(v, list) else '')
def test_old_words_are_answered_with_the_new(capsys, tmp_path, argv, message):
    for key, value in dict(grids='[closed]', stability='false').items(): (tmp_path/f'{key}.yaml').write_text(f'{key}: {value}')
    (tmp_path/'results').mkdir()
    row = dict(network='a', data='b', name='c', target=0, method='ig', rule='idgi', steps=8, grid='closed', insertion=.5)
    shard = dict(network='a', data='b', methods=['ig'], steps=[8], grid='closed', start=0, stop=1, images=1, seed=0)
    manifest = json.dumps(dict(shard=shard, version='0.1.0', weights='w', seconds=1., skipped=[], failed=[]))
    old = pa.table({k: [v] for k, v in row.items()}).replace_schema_metadata({b'idgi_repro': manifest.encode()})
    pq.write_table(old, tmp_path/'results/a-closed-00000.parquet')
    assert main([a.replace('OLD', str(tmp_path)) for a in argv]) == 2
    said = capsys.readouterr().err
    assert message in said and '\nidgi-repro: ' in f'\n{said}' and 'Traceback' not in said


def test_study_and_report_end_to_end(capsys, tmp_path):
    "Images to page by the commands of the README, through papermill; a second time nothing is computed."
    results, out = tmp_path/'results', tmp_path/'figures'
    argv = ['study', '--data', 'embedded:20', '--models', 'mini_resnet', '--methods', 'ig', 'ig+idgi', '--images', '2', '--steps', '2', '4',
            '--out', str(results)]
    assert main(argv) == 0
    shards = {f: f.stat().st_mtime_ns for f in results.glob('mini*.parquet')}
    rows = pd.concat([pd.read_parquet(f) for f in shards])
    assert len(shards) == 2 and len(rows) == 2*2*2*2
    capsys.readouterr()
    assert main(argv) == 0
    assert '2 of 2 shards stand already' in capsys.readouterr().err
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

"Folders as people have them: whose label a class folder is, and what of all that lies there is taken."
import os, tarfile
from io import BytesIO
from pathlib import Path

import numpy as np, pytest, torch
import pyarrow as pa, pyarrow.parquet as pq
from PIL import Image
from torch import nn

from idgi_repro.cli import check
from idgi_repro.errors import InputError
from idgi_repro.papers.idgi import PAPER
from idgi_repro.report.page import missing
from idgi_repro.study import shard as room
from idgi_repro.study.imagenet import omitted, open_images
from idgi_repro.study.images import class_indices, class_order
from idgi_repro.study.models import Network
from idgi_repro.study.scene import views
from idgi_repro.study.selection import choose, select
from idgi_repro.study.shard import Shard, boxes_of, run

TENCH, GOLDFISH = 'n01440764', 'n01443537'


def put(root, *names):
    for name in names:
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (20, 10), (9, 80, 120)).save(root/name, None if Path(name).suffix.lower() in ('.png', '.jpg', '.jpeg') else 'PNG')
    return root

def by_folder(images): return {i.path.parent.name: i.label for i in images}

def left(images): return [name for name, _ in images.left_out]

class Sure(nn.Module):
    def __init__(self, classes): super().__init__(); self.classes = classes
    def forward(self, x): return torch.arange(self.classes).float().expand(len(x), -1)

def network(classes): return Network('sure', Sure(classes), (0, 0, 0), (1, 1, 1), resize=8, crop=8)


# labels

ORDERS = [
    (['0', '1', '2', '10'], [0, 1, 2, 10]),
    (['0', '2', '10', '100', '999'], [0, 2, 10, 100, 999]),
    (['3', '7'], [3, 7]),
    (['000', '002', '010'], [0, 2, 10]),
    (['1'], [1]),
    (['class1', 'class2', 'class10'], [0, 1, 2]),
    (['2 cats', '10 dogs'], [0, 1]),
    (['a2b3', 'a2b10', 'a10b1'], [0, 1, 2]),
    (['a', 'b10', 'b9'], [0, 2, 1]),
    (['1', '10', '2', 'other'], [0, 2, 1, 3]),
    (['-1', '-2'], [0, 1]),
    (['cat', 'dog'], [0, 1]),
    (['Zebra', 'ant'], [0, 1]),
    ([TENCH, GOLDFISH, 'n02119789'], [0, 1, 2])]

@pytest.mark.parametrize('folders, labels', ORDERS)
def test_labels_of_class_folders(tmp_path, folders, labels):
    images = open_images(put(tmp_path, *(f'{f}/x.png' for f in folders)))
    assert by_folder(images) == dict(zip(folders, labels)) and max(labels) < len(images.categories)
    assert all(images.categories[i.label] in (i.path.parent.name, str(i.label)) for i in images)

def test_the_thousand_folders_of_imagenet_v2(tmp_path):
    for i in range(1000): (tmp_path/str(i)).mkdir(); (tmp_path/str(i)/'x.jpeg').touch()
    images = open_images(tmp_path)
    assert [i.label for i in images] == [*range(1000)] == [int(i.path.parent.name) for i in images]
    images.check(1000)

def tar_of(file, *names):
    Image.new('RGB', (20, 10)).save(data := BytesIO(), 'PNG')
    with tarfile.open(file, 'w') as tar:
        for name in names:
            m = tarfile.TarInfo(name)
            m.size = len(data.getvalue())
            tar.addfile(m, BytesIO(data.getvalue()))
    return file

@pytest.mark.parametrize('names, labels', [
    (['v2/0/a.png', 'v2/2/b.png', 'v2/10/c.png'], {'0': 0, '2': 2, '10': 10}),
    (['3/a.png', '7/b.png'], {'3': 3, '7': 7}),
    (['2012/a.png', '2012/b.png'], {'2012': None}),
    (['cat/a.png', 'dog/b.png'], {'cat': None, 'dog': None}),
    ([f'{TENCH}/a.png', f'{GOLDFISH}/b.png'], {TENCH: 0, GOLDFISH: 1})])
def test_labels_in_a_tar(tmp_path, names, labels):
    images = open_images(tar_of(tmp_path/'x.tar', *names, '__MACOSX/9/d.png'))
    assert {i.entry.split('/')[-2]: i.label for i in images} == labels

@pytest.mark.parametrize('names, said', [(['7', '07'], "'07' and '7' are both class 7"), (['20261125'], "'20261125' is a number too large"),
                                         (['0', '00', '000'], 'both class 0')])
def test_numbers_that_are_no_classes(names, said):
    with pytest.raises(InputError, match=said): class_indices(names)

@pytest.mark.parametrize('names', [[], ['a'], ['1', 'a'], ['1.5'], ['-1'], ['²'], ['١']])
def test_names_that_are_no_numbers(names): assert class_indices(names) is None

def test_the_order_does_not_depend_on_how_names_come():
    names = [f'c{i}' for i in range(30)]
    for seed in range(5): assert class_order(np.random.default_rng(seed).permutation(names).tolist()) == names

def test_numbers_with_a_class_list(tmp_path):
    put(tmp_path, '0/x.png', '1/x.png')
    (tmp_path/'wnids.txt').write_text(f'{GOLDFISH}\n{TENCH}\n')
    images = open_images(tmp_path)
    assert by_folder(images) == {'0': 0, '1': 1} and images.categories == [GOLDFISH, TENCH]
    put(tmp_path, '2/x.png')
    with pytest.raises(InputError, match="'2' is not among the 2 classes of wnids.txt, 0 to 1"): open_images(tmp_path)

@pytest.mark.parametrize('folders, classes, fits', [(['0', '1', '2'], 3, True), (['0', '1', '2'], 4, False), (['0', '2'], 3,
    True), (['0', '2'], 1000, True), (['0', '2'], 2, False), (['1', '2'], 10, True), (['a', 'b'], 3, False)])
def test_numbers_that_leave_gaps_are_a_part_of_the_classes(tmp_path, folders, classes, fits):
    images = open_images(put(tmp_path, *(f'{f}/x.png' for f in folders)))
    if fits: assert select(network(classes), images).label.tolist() == [int(f) for f in folders]
    else:
        with pytest.raises(InputError, match='classes and the network'): select(network(classes), images)

def test_an_empty_folder_says_how_many_classes_there_are(tmp_path):
    put(tmp_path, '0/x.png', '1/x.png')
    with pytest.raises(InputError, match='add an empty folder 999'): open_images(tmp_path).check(1000)
    (tmp_path/'999').mkdir()
    open_images(tmp_path).check(1000)


# what is taken, and what is left out

TAKEN = dict(
    stray       = (['preview.png', 'cat/a.png', 'dog/b.png'], {'cat', 'dog'}, ['preview.png']),
    strays      = (['b.png', 'a.jpg', 'cat/a.png', 'cat/b.png', 'dog/c.png'], {'cat', 'dog'}, ['a.jpg', 'b.png']),
    single      = (['preview.png', 'cat/a.png'], {'cat'}, ['preview.png']),
    besideval   = (['preview.png', 'val/cat/a.png', 'val/dog/a.png'], {'cat', 'dog'}, ['preview.png']),
    withinval   = (['val/p.png', 'val/cat/a.png', 'val/dog/a.png'], {'cat', 'dog'}, ['val/p.png']),
    deeper      = (['cat/a.png', 'dog/old/b.png', 'dog/c.png'], {'cat', 'dog'}, ['dog/old/b.png']),
    deepest     = (['cat/a.png', 'dog/1/2/3/b.png'], {'cat'}, ['dog/1/2/3/b.png']),
    thumbnails  = (['a.png', 'b.png', 'c.png', 'small/a.png', 'small/b.png'], None, ['small/a.png', 'small/b.png']),
    images      = (['images/a.png', 'images/b.png', 'logo.png'], None, ['logo.png']),
    othersplit  = (['train/cat/a.png', 'val/cat/b.png'], {'cat'}, []),
    macos       = (['__MACOSX/x.png', 'cat/a.png', 'cat/._a.png', 'dog/b.png', '.DS_Store'], {'cat', 'dog'}, []),
    synology    = (['@eaDir/x.png', 'cat/@eaDir/x.png', 'cat/a.png', 'dog/b.png'], {'cat', 'dog'}, []),
    windows     = (['$RECYCLE.BIN/x.png', 'System Volume Information/y.png', 'cat/a.png', 'dog/Thumbs.db'], {'cat'}, []),
    git         = (['.git/x.png', 'cat/a.png', 'dog/b.png'], {'cat', 'dog'}, []),
    uppercase   = (['CAT/A.PNG', 'DOG/B.JPG'], {'CAT', 'DOG'}, []),
    filelike    = (['cat.png/a.png', 'dog.jpg/b.png'], {'cat.png', 'dog.jpg'}, []),
    flat        = (['a.png', 'b.PNG'], None, []))

@pytest.mark.parametrize('case', TAKEN)
def test_what_is_taken_and_what_is_left_out(tmp_path, case):
    names, folders, rest = TAKEN[case]
    images = open_images(put(tmp_path, *names))
    assert left(images) == rest and all(why.startswith('left out: it lies') for _, why in images.left_out)
    assert (images.categories is None) == (folders is None)
    if folders: assert {*by_folder(images)} == folders
    assert not {i.path for i in images} & {tmp_path/n for n in rest} and all(i.open() for i in images)

@pytest.mark.parametrize('packed', ['tar', 'parquet'])
def test_a_stray_picture_beside_what_is_packed(tmp_path, packed):
    put(tmp_path, 'banner.png')
    if packed == 'tar': tar_of(tmp_path/'any.tar', 'a.png', 'b.png')
    else:
        image = pa.array([dict(bytes=(tmp_path/'banner.png').read_bytes(), path=p) for p in ('a.png', 'b.png')])
        pq.write_table(pa.table({'image': image, 'label': [0, 1]}), tmp_path/'validation-00000-of-00001.parquet')
    images = open_images(tmp_path)
    assert [i.name for i in images] == ['a.png', 'b.png'] and left(images) == ['banner.png']

@pytest.mark.parametrize('names', [['a.png'], ['a.png', 'b.png'], ['a.png', 'b.png', 'c.png']])
def test_a_damaged_tar_beside_pictures_is_named(tmp_path, names):
    put(tmp_path, *names)
    (tmp_path/'x.tar').write_bytes(b'no tar')
    images = open_images(tmp_path)
    assert len(images) == len(names) and 'x.tar cannot be read to its end' in images.left_out[0][1]

@pytest.mark.parametrize('names', [['set/cat/a.png', 'set/dog/b.png'], ['one/two/three/a.png']])
def test_pictures_that_all_lie_deeper(tmp_path, names):
    with pytest.raises(InputError, match=f'its pictures lie deeper, such as {names[0]}: give the folder'):
        open_images(put(tmp_path, *names))

def test_very_many_are_counted_and_not_all_named(tmp_path):
    put(tmp_path, 'cat/a.png')
    (tmp_path/'cat/more').mkdir()
    for i in range(1203): (tmp_path/f'cat/more/{i:04d}.png').touch()
    assert len(left(open_images(tmp_path))) == 1001 and left(open_images(tmp_path))[-1] == 'and 203 more pictures'

@pytest.mark.parametrize('n', [0, 1, 3, 4, 9])
def test_what_is_left_out_is_told_by_data_check_the_choice_and_the_report(tmp_path, n):
    put(tmp_path, '0/a.png', '1/b.png', *(f'1/old/{i}.png' for i in range(n)))
    images = open_images(tmp_path)
    said, well = check(str(tmp_path))
    assert well and (f'{"left out":<10}{n} that a study leaves out' in said) == (n > 0) == ('1/old/0.png' in said)
    assert (f'and {n - 3} more' in said) == (n > 3) and bool(omitted(images)) == (n > 0)
    chosen, unread = choose(network(2), images, 9)
    assert unread.name.tolist() == left(images) == [f'1/old/{i}.png' for i in range(n)]
    table = missing([dict(shard=dict(data='x'), network='sure', skipped=unread.values.tolist())])
    assert table.title == (f'{n} image{"s"*(n > 1)} could not be used' if n else 'Every image could be used')

@pytest.mark.parametrize('link', ['.', '..', 'loop', 'nowhere', 'cat/again'])
def test_links_that_lead_in_circles(tmp_path, link):
    put(tmp_path, 'set/cat/a.png', 'set/dog/b.png')
    root = tmp_path/'set'
    os.symlink(root.parent if link == '..' else root if link == '.' else root/link, root/(link if link == 'loop' else 'self'))
    if link == 'cat/again': os.symlink(root, root/'cat/again')
    images = open_images(root)
    assert by_folder(images)['cat'] == 0 and by_folder(images)['dog'] == 1 and len(images) == 2

def test_a_link_to_a_class_folder_elsewhere_is_one(tmp_path):
    put(tmp_path, 'store/x/a.png', 'set/dog/b.png')
    os.symlink(tmp_path/'store/x', tmp_path/'set/cat')
    assert by_folder(open_images(tmp_path/'set')) == {'cat': 0, 'dog': 1}

def test_a_class_folder_that_may_not_be_read(tmp_path, monkeypatch):
    put(tmp_path, 'cat/a.png', 'dog/b.png')
    scandir = os.scandir
    def no(folder):
        if Path(folder).name == 'dog': raise PermissionError(13, 'Permission denied', str(folder))
        return scandir(folder)
    monkeypatch.setattr(os, 'scandir', no)
    with pytest.raises(InputError, match='cannot be read: .*Permission denied.*dog'): open_images(tmp_path)

@pytest.mark.parametrize('name', [b'\xff\xfe', 'caf\u00e9'.encode(), b'a b', b'a\nb', b'\x1b[2J', '\u732b'.encode(), b"it's",
                                  b'#1%20', b'<b>'])
def test_odd_names(tmp_path, name):
    odd = os.fsdecode(name)
    try: put(tmp_path, f'{odd}/{odd}.png', 'zzz/b.png', f'zzz/deep/{odd}.png')
    except OSError: pytest.skip('this file system takes only text')
    images = open_images(tmp_path)
    for text in (*images.categories, *left(images), *(i.name for i in images)):
        assert text.encode() and not any(ord(c) < 32 or c == '\x7f' for c in text)
    assert len(images) == 2 and len(left(images)) == 1 and choose(network(2), images, 9)[0].name.notna().all()
    assert check(str(tmp_path))[0].encode()


# Kaggle

VAL = 'ILSVRC2012_val_0000000{}'.format

def kaggle(root, solution=None, mapping=True):
    put(root, *(f'ILSVRC/Data/CLS-LOC/val/{VAL(i)}.JPEG' for i in (1, 2, 3)), f'ILSVRC/Data/CLS-LOC/train/{TENCH}/x.JPEG',
        'ILSVRC/Data/CLS-LOC/test/y.JPEG')
    (root/'ILSVRC/Annotations/CLS-LOC/val').mkdir(parents=True)
    (root/f'ILSVRC/Annotations/CLS-LOC/val/{VAL(1)}.xml').write_text('<annotation/>')
    lines = ['ImageId,PredictionString', f'{VAL(3)},{GOLDFISH} 1 2 3 4 ', f'{VAL(1)},{GOLDFISH} 1 2 3 4 {GOLDFISH} 5 6 7 8',
             f'{VAL(2)},{TENCH} 0 0 1 1']
    (root/'LOC_val_solution.csv').write_text('\n'.join(lines if solution is None else solution))
    if mapping: (root/'LOC_synset_mapping.txt').write_text(f'{TENCH} tench, Tinca tinca\n{GOLDFISH} goldfish, Carassius auratus\n')
    return root

@pytest.mark.parametrize('at', ['.', 'ILSVRC', 'ILSVRC/Data/CLS-LOC', 'ILSVRC/Data/CLS-LOC/val'])
def test_kaggles_layout(tmp_path, at):
    images = open_images(kaggle(tmp_path)/at)
    assert [i.label for i in images] == [1, 0, 1] and images.categories == [TENCH, GOLDFISH] and images.source == 'LOC_val_solution.csv'
    assert not images.left_out

def test_kaggles_training_folder(tmp_path):
    images = open_images(kaggle(tmp_path)/'ILSVRC/Data/CLS-LOC/train')
    assert [i.label for i in images] == [0] and images.categories == [TENCH, GOLDFISH] and 'LOC_synset_mapping.txt' in images.source

@pytest.mark.parametrize('solution, mapping, said', [
    (None, False, 'needs LOC_synset_mapping.txt beside it'),
    ([], True, f'says nothing about {VAL(1)}'),
    ([f'{VAL(1)},'], True, 'says nothing about'),
    ([f'{VAL(i)},n09999999 1 2 3 4' for i in (1, 2, 3)], True, "'n09999999' is not among the 2 classes"),
    *(([f'{VAL(2)},{text}'], True, f'LOC_val_solution.csv, {VAL(2)}: {text!r} must be a WordNet id and the left') for text in
      (f'{TENCH} 1 2 3', f'{TENCH} 1 2 3 4 5', f'{TENCH} 9 2 3 4', f'{TENCH} 1 9 3 4', f'{TENCH} -1 2 3 4', f'{TENCH} 1 2 3 x',
       f'{TENCH} 1 2 3 4.5', f'{TENCH} 1 2 3 4 {TENCH} 5 6 7'))])
def test_kaggles_files_that_do_not_fit(tmp_path, solution, mapping, said):
    with pytest.raises(InputError, match=said): open_images(kaggle(tmp_path, solution, mapping))

BOXES = dict( # what the table says; the object's pixels, left, top, right and bottom, of a picture of 20 x 10; None: unknown
    one     = (f'{TENCH} 2 3 5 6', [(2, 3, 5, 6)]),
    all     = (f'{TENCH} 0 0 19 9', [(0, 0, 19, 9)]),
    pixel   = (f'{TENCH} 4 4 4 4', [(4, 4, 4, 4)]),
    beyond  = (f'{TENCH} 12 5 20 500', [(12, 5, 19, 9)]),
    two     = (f'{TENCH} 0 0 3 3 {TENCH} 2 2 9 9', [(0, 0, 3, 3), (2, 2, 9, 9)]),
    others  = (f'{TENCH} 0 0 3 3 {GOLDFISH} 2 2 9 9', [(0, 0, 3, 3)]),
    nobox   = (TENCH, None))

def inside(boxes):
    y, x = np.mgrid[:10, :20]
    return sum((x >= l) & (x <= r) & (y >= t) & (y <= b) for l, t, r, b in boxes) > 0

@pytest.mark.parametrize('case', BOXES)
def test_kaggles_boxes_are_where_the_object_is(tmp_path, case):
    text, boxes = BOXES[case]
    images = open_images(kaggle(tmp_path, [f'{VAL(1)},{text}', f'{VAL(2)},{TENCH}', f'{VAL(3)},{GOLDFISH}']))
    assert [i.label for i in images] == [0, 0, 1] and images[1].mask() is images[2].mask() is None
    assert images[0].mask() is None if boxes is None else (images[0].mask() == inside(boxes)).all()
    assert (boxes_of(images) == '') == (boxes is None)
    unlabelled = open_images(tmp_path, labels=False)
    assert [i.boxes for i in unlabelled] == [i.boxes for i in images]

@pytest.mark.parametrize('lie', ['folders', 'tar', 'alike'])
def test_kaggles_boxes_of_pictures_that_lie_otherwise(tmp_path, lie):
    "Whose labels are the class folders', in a tar, and where two folders have a picture of one name."
    names = [f'{TENCH}/{VAL(1)}.JPEG', f'{GOLDFISH}/{VAL(1 if lie == "alike" else 2)}.JPEG']
    (tmp_path/'LOC_val_solution.csv').write_text(f'ImageId,PredictionString\n{VAL(1)},{TENCH} 2 3 5 6\n')
    images = open_images(tar_of(tmp_path/'x.tar', *names) if lie == 'tar' else put(tmp_path, *names))
    found = {i.entry.split('/')[-2]: i.mask() for i in images}
    assert images.source.startswith('class folders') and (found[TENCH] == inside([(2, 3, 5, 6)])).all()
    assert found[GOLDFISH] is None if lie != 'alike' else (found[GOLDFISH] == found[TENCH]).all()

def test_a_box_out_of_the_networks_sight_is_none(tmp_path):
    "The square in the middle of 20 x 10 pixels begins at the sixth."
    lines = [f'{VAL(1)},{TENCH} 0 0 3 9', f'{VAL(2)},{TENCH} 0 0 9 9', f'{VAL(3)},{TENCH} 0 0 19 9']
    outside, half, whole = views(network(2), open_images(kaggle(tmp_path, lines))).mask
    assert outside is None and half.shape == (8, 8) and half.float().mean() == .5 and whole.all()

class Corner(nn.Module):
    "Looks at the upper left corner, and sees a goldfish."
    def forward(self, x): return torch.stack([-x.mean((1, 2, 3)), 3 + x[..., :3, :3].mean((1, 2, 3))], 1)

def test_a_study_measures_localisation_by_the_boxes(tmp_path, monkeypatch):
    "And computes rows anew where the boxes have changed, though no picture has."
    monkeypatch.setattr(room, 'network_of', lambda spec, shard: Network('corner', Corner(), (0, 0, 0), (1, 1, 1), resize=8, crop=8))
    shard = Shard(network='corner', data=str(tmp_path/'set'), methods=('ig',), metrics=('pointing',), steps=(1,), images=9, stop=9,
                  exact=True, out=str(tmp_path/'out'))
    lines = lambda box: [f'{VAL(1)},{GOLDFISH} {box}', f'{VAL(2)},{GOLDFISH}', f'{VAL(3)},{TENCH} 0 0 19 9']
    found = []
    for box in ('0 0 9 4', '0 0 9 4', '10 5 19 9'):
        if found: (tmp_path/'set/LOC_val_solution.csv').write_text('\n'.join(lines(box)))
        else: kaggle(tmp_path/'set', lines(box))
        found.append(run(shard, PAPER))
    rows = [pq.read_table(f).to_pandas().set_index('name').pointing for f in found]
    assert found[0] == found[1] != found[2] and all(len(r) == 2 and np.isnan(r[f'{VAL(2)}.JPEG']) for r in rows)
    assert [r[f'{VAL(1)}.JPEG'] for r in rows] == [1, 1, 0]

"Images: every layout, every bad file, and the selection that is computed once."
import hashlib, json, multiprocessing, os, pickle, struct, tarfile, warnings, zlib
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path

import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest, torch
from PIL import Image
from scipy.io import savemat
from torch import nn

from idgi_repro.study import packed
from idgi_repro.study.embedded import SHAPES, SIDE, draw
from idgi_repro.study.imagenet import DEVKIT, TRUTH, completeness, open_images, per_class, unreadable
from idgi_repro.study.images import Embedded, Images, Photo, Shape, UnreadableImage, load_batch
from idgi_repro.study.selection import select
from idgi_repro.errors import InputError
from idgi_repro.study.models import Network

REALDATA = Path(os.environ.get('IDGI_SHARED') or Path(__file__).resolve().parents[2]/'shared')/'realdata'
TENCH, GOLDFISH = 'n01440764', 'n01443537'


def put(root, *names):
    for n, name in enumerate(names):
        (root/name).parent.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (20, 10), (40*n, 80, 120)).save(root/name)
    return root

def write(file, *lines):
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text('\n'.join(lines) + '\n')

def labels(images): return [i.label for i in images]

class Brightness(nn.Module):
    "Class 0 for dark and 1 for bright images; NaN for pure white ones."
    def __init__(self): super().__init__(); self.calls = 0
    def forward(self, x):
        self.calls += 1
        m = x.mean((1, 2, 3))
        return 20*torch.stack([torch.where(m >= 1, torch.nan, .5 - m), m - .5], 1)

@pytest.fixture
def net(): return Network('bright/ness:2', Brightness(), (0, 0, 0), (1, 1, 1), resize=16, crop=16)


# the embedded set

def test_an_embedded_image_depends_on_seed_index_and_split_alone():
    a = [np.asarray(i.open()) for i in Embedded(12)]
    b = [np.asarray(i.open()) for i in Embedded(30)[:12]]
    assert all((p == q).all() for p, q in zip(a, b))
    for other in (Embedded(12, seed=1), Embedded(12, split=1)):
        assert all((p != np.asarray(q.open())).any() for p, q in zip(a, other))
    assert len({i.name for i in [*Embedded(12), *Embedded(12, seed=1), *Embedded(12, split=1)]}) == 36

def test_the_embedded_set_is_the_one_the_networks_were_trained_on():
    digest = hashlib.sha256(b''.join(draw(0, i, 0)[0].tobytes() for i in range(20))).hexdigest()
    assert digest.startswith('45da5f2e6615d0a2'), ('the embedded set has changed: train the embedded networks again '
                                                   '(experiments/train_embedded)')

def test_the_mask_is_the_object():
    for item in Embedded(20, seed=5):
        mask, image = item.mask(), np.asarray(item.open())
        assert mask.shape == image.shape[:2] == (SIDE, SIDE) and mask.dtype == bool
        assert .02 < mask.mean() < .25 and SHAPES[item.label] in item.name
    assert Photo(Path('x.png')).mask() is None


# layouts

@pytest.mark.parametrize('at', ['.', 'val'])
def test_the_studys_layout(tmp_path, at):
    put(tmp_path, 'val/images/a.JPEG', 'val/images/b.JPEG', 'val/images/c.JPEG')
    write(tmp_path/at/'val_annotations.txt', f'b.JPEG\t{TENCH}\t0\t0\t62\t62', f'a.JPEG\t{GOLDFISH}', '', f'c.JPEG\t{TENCH}',
          f'unused.JPEG\t{TENCH}')
    write(tmp_path/at/'wnids.txt', GOLDFISH, TENCH)
    images = open_images(tmp_path)
    assert labels(images) == [0, 1, 1] and images.categories == [GOLDFISH, TENCH] and images[0].name == 'a.JPEG'

@pytest.mark.parametrize('lines, said', [
    (['a.JPEG\tn09999999', f'b.JPEG\t{TENCH}'], "'n09999999' is not among"),
    ([f'a.JPEG\t{TENCH}'], 'says nothing about b.JPEG'),
    (['a.JPEG', f'b.JPEG\t{TENCH}'], 'a tab and a WordNet id'),
    ([], 'says nothing about a.JPEG'),
])
def test_wrong_annotations(tmp_path, lines, said):
    put(tmp_path, 'val/images/a.JPEG', 'val/images/b.JPEG')
    write(tmp_path/'wnids.txt', TENCH, GOLDFISH)
    write(tmp_path/'val_annotations.txt', *lines)
    with pytest.raises(InputError) as e: open_images(tmp_path)
    assert said in str(e.value)

def test_annotations_without_the_class_order(tmp_path):
    put(tmp_path, 'val/images/a.JPEG')
    write(tmp_path/'val_annotations.txt', f'a.JPEG\t{TENCH}')
    with pytest.raises(InputError, match='wnids.txt'): open_images(tmp_path)

@pytest.mark.parametrize('ids', [(TENCH, TENCH), ('tench',)])
def test_a_wrong_class_order(tmp_path, ids):
    put(tmp_path, f'{TENCH}/a.JPEG')
    write(tmp_path/'wnids.txt', *ids)
    with pytest.raises(InputError, match='WordNet id'): open_images(tmp_path)

@pytest.mark.parametrize('val', ['', 'val/'])
def test_torchvisions_layout(tmp_path, val):
    put(tmp_path, f'{val}{GOLDFISH}/1.JPEG', f'{val}{TENCH}/2.JPEG', f'{val}{TENCH}/3.JPEG')
    assert labels(open_images(tmp_path)) == [0, 0, 1]
    write(tmp_path/'wnids.txt', GOLDFISH, TENCH)
    assert labels(open_images(tmp_path)) == [1, 1, 0]

def test_any_folder_of_class_folders(tmp_path):
    images = open_images(put(tmp_path, 'cat/1.png', 'dog/1.png', 'dog/2.png'))
    assert labels(images) == [0, 1, 1] and images.categories == ['cat', 'dog']

def test_names_that_begin_with_a_wordnet_id(tmp_path):
    put(tmp_path, f'{TENCH}_tench.JPEG', f'{GOLDFISH}_goldfish.JPEG')
    assert labels(open_images(tmp_path)) == [None, None], 'two ids do not give the order of a thousand'
    write(tmp_path/'wnids.txt', GOLDFISH, TENCH)
    assert labels(open_images(tmp_path)) == [1, 0]

def test_a_thousand_names_are_their_own_order(tmp_path):
    for i in range(1000): (tmp_path/f'n{i:08d}_x.JPEG').touch()
    images = open_images(tmp_path)
    assert labels(images) == list(range(1000)) and len(images.categories) == 1000

def test_flat_folders_and_single_files(tmp_path):
    put(tmp_path, 'b.png', 'A.JPG')
    (tmp_path/'notes.txt').touch(); (tmp_path/'.hidden.png').touch()
    assert [i.name for i in open_images(tmp_path)] == ['A.JPG', 'b.png'] and labels(open_images(tmp_path/'b.png')) == [None]

def test_labels_can_be_ignored(tmp_path):
    images = open_images(put(tmp_path, 'cat/1.png', 'dog/1.png'), labels=False)
    assert labels(images) == [None, None] and images.categories is None

@pytest.mark.parametrize('spec, said', [('nowhere', 'no file or folder'), ('embedded:0', 'positive'), ('embedded:-3', 'positive'),
                                        ('embedded:ten', 'positive')])
def test_paths_that_lead_nowhere(spec, said):
    with pytest.raises(InputError, match=said): open_images(spec)

def test_an_empty_folder(tmp_path):
    (tmp_path/'only.txt').touch()
    with pytest.raises(InputError, match=r'\.jpeg'): open_images(tmp_path)

def test_a_folder_that_may_not_be_read(tmp_path, monkeypatch):
    def no(folder): raise PermissionError(13, 'Permission denied')
    monkeypatch.setattr(os, 'listdir', no)
    with pytest.raises(InputError, match='cannot be read: .*Permission denied'): open_images(tmp_path)


# the official tar

KITFOX = 'n02119789'
DEVKIT_ORDER = [KITFOX, GOLDFISH, TENCH] # numbers 1, 2 and 3

def val(i): return f'ILSVRC2012_val_{i:08d}.JPEG'

def jpeg(shade=0):
    Image.new('RGB', (20, 10), (shade, 80, 120)).save(data := BytesIO(), 'JPEG')
    return data.getvalue()

def pack(file, *members):
    "A tar of (name or TarInfo, bytes)."
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, 'w:gz' if file.suffix == '.gz' else 'w') as tar:
        for m, data in members:
            m = tarfile.TarInfo(m) if isinstance(m, str) else m
            m.size = len(data)
            tar.addfile(m, BytesIO(data))
    return file

def official(root, *names):
    return pack(root/'ILSVRC2012_img_val.tar', *((n, jpeg(60*i)) for i,n in enumerate(names or map(val, (1, 2, 3)))))

def meta():
    "The devkit's meta.mat; its numbers are not in the order of the ids, and its last entry is no class."
    rows = [(i, w, w, '', 0) for i,w in enumerate(DEVKIT_ORDER, 1)] + [(4, 'n02512053', 'fish', '', 2)]
    synsets = np.array(rows, [(f, object) for f in ('ILSVRC2012_ID', 'WNID', 'words', 'gloss', 'num_children')])
    savemat(data := BytesIO(), {'synsets': synsets[:, None]})
    return data.getvalue()

TRUTHS = b'3\n1\n2\n' # tench, kit fox, goldfish
def devkit(root):
    return pack(root/f'{DEVKIT}.tar.gz', (f'{DEVKIT}/readme.txt', b'hello'), (f'{DEVKIT}/data/meta.mat', meta()),
                (f'{DEVKIT}/data/{TRUTH}', TRUTHS))

def loose(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for n in names: (folder/n).write_bytes(meta() if n == 'meta.mat' else TRUTHS)

def test_a_tar_without_labels(tmp_path):
    file = official(tmp_path, *map(val, (3, 1, 2)))
    for spec in (tmp_path, file):
        images = open_images(spec)
        assert [i.name for i in images] == [val(1), val(2), val(3)] and labels(images) == [None]*3 and images.categories is None
        assert images.layout == 'ILSVRC2012_img_val.tar, read in place' and images.source == ''
        assert f'{DEVKIT}.tar.gz' in images.advice and str(tmp_path) in images.advice
    assert [i.open().getpixel((5, 5))[0] for i in images] == pytest.approx([60, 120, 0], abs=3)
    assert not [p for p in tmp_path.iterdir() if p != file]

@pytest.mark.parametrize('kit', [devkit, lambda root: loose(root/DEVKIT/'data', TRUTH, 'meta.mat'),
                                 lambda root: loose(root, TRUTH, 'meta.mat'), lambda root: (devkit(root), loose(root, TRUTH))],
                         ids=['archive', 'unpacked', 'beside', 'both'])
@pytest.mark.parametrize('packed', [True, False])
def test_labels_from_the_devkit(tmp_path, kit, packed):
    if packed: official(tmp_path)
    else: put(tmp_path, *(f'val/{val(i)}' for i in (1, 2, 3)))
    kit(tmp_path)
    images = open_images(tmp_path)
    assert labels(images) == [0, 2, 1] and images.categories == [TENCH, GOLDFISH, KITFOX] and TRUTH in images.source and not images[0].label
    write(tmp_path/'wnids.txt', GOLDFISH, TENCH, KITFOX)
    assert labels(open_images(tmp_path)) == [1, 2, 0], 'wnids.txt is the class order'
    write(tmp_path/'wnids.txt', *DEVKIT_ORDER)
    assert labels(open_images(tmp_path)) == [0, 2, 1], 'but the order of the devkit is no class order'

def test_a_part_of_the_tar_is_labelled_by_its_numbers(tmp_path):
    devkit(official(tmp_path, 'val/' + val(3), './' + val(2)).parent)
    images = open_images(tmp_path/'ILSVRC2012_img_val.tar')
    assert {i.name: i.label for i in images} == {val(2): 2, val(3): 1}

def test_labels_by_the_devkits_numbers_and_its_order_in_wnids(tmp_path):
    official(tmp_path)
    loose(tmp_path, TRUTH)
    with pytest.raises(InputError, match=f'nothing here tells; place {DEVKIT}.tar.gz'): open_images(tmp_path)
    write(tmp_path/'wnids.txt', *sorted(DEVKIT_ORDER))
    with pytest.raises(InputError, match=f'sorted wnids.txt does not tell; place {DEVKIT}.tar.gz'): open_images(tmp_path)
    write(tmp_path/'wnids.txt', *DEVKIT_ORDER)
    images = open_images(tmp_path)
    assert labels(images) == [0, 2, 1] and images.categories == sorted(DEVKIT_ORDER) and 'not sorted' in images.source

def test_labels_of_a_tar_from_annotations(tmp_path):
    official(tmp_path)
    write(tmp_path/'val_annotations.txt', f'{val(1)}\t{TENCH}', f'{val(2)}\t{KITFOX}\t1\t2', f'{val(3)}\t{TENCH}')
    with pytest.raises(InputError, match='wnids.txt'): open_images(tmp_path)
    write(tmp_path/'wnids.txt', KITFOX, TENCH)
    assert labels(open_images(tmp_path)) == labels(open_images(tmp_path/'ILSVRC2012_img_val.tar')) == [1, 0, 1]

def test_a_tar_of_class_folders_or_of_labelled_names(tmp_path):
    assert labels(open_images(official(tmp_path, f'val/{GOLDFISH}/1.JPEG', f'val/{TENCH}/2.JPEG'))) == [0, 1], 'in the order of their names'
    file = official(tmp_path, f'{GOLDFISH}_1.JPEG', f'{TENCH}_2.JPEG')
    assert labels(open_images(file)) == [None, None] and 'place wnids.txt' in open_images(file).advice
    write(tmp_path/'wnids.txt', GOLDFISH, TENCH)
    assert labels(open_images(file)) == [1, 0]

@pytest.mark.parametrize('truth, said', [(b'3\n1\n', 'has 2 labels and none for ILSVRC2012_val_00000003'), (b'3\n4\n1\n',
    "line 2: '4' is not one of the 3"), (b'3\nx\n1\n', "line 2: 'x'"), (b'9'*9999, 'line 1')])
def test_a_wrong_ground_truth(tmp_path, truth, said):
    official(tmp_path)
    loose(tmp_path, TRUTH, 'meta.mat')
    (tmp_path/TRUTH).write_bytes(truth)
    with pytest.raises(InputError, match=said): open_images(tmp_path)

def test_a_damaged_devkit(tmp_path):
    official(tmp_path)
    file = devkit(tmp_path)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(InputError, match='download it again'): open_images(tmp_path)
    file.unlink()
    loose(tmp_path, TRUTH)
    (tmp_path/'meta.mat').write_bytes(b'no matrix')
    with pytest.raises(InputError, match=f'download {DEVKIT}.tar.gz again'): open_images(tmp_path)

@pytest.mark.parametrize('damage', ['empty', 'text', 'within an image', 'between images', 'header', 'first header', 'gzip'])
def test_a_damaged_tar(tmp_path, damage):
    file = official(tmp_path)
    data, second = file.read_bytes(), open_images(file)[1].offset
    file.write_bytes(dict([('empty', b''), ('text', b'no tar'*1000), ('within an image', data[:second + 9]),
                           ('between images', data[:second - 512]), ('gzip', b'\x1f\x8b' + data),
                           ('header', data[:second - 500] + b'?'*9 + data[second - 491:]), ('first header', b'?'*9 + data[9:])])[damage])
    with pytest.raises(InputError,
                       match='ILSVRC2012_img_val.tar cannot be read to its end.*download it again, whose MD5 sum is 29b22e') as e:
        open_images(tmp_path)
    assert not isinstance(e.value, UnreadableImage)

def test_a_compressed_tar(tmp_path):
    with pytest.raises(InputError, match='decompress it'): open_images(pack(tmp_path/'val.tar.gz', (val(1), jpeg())))

def test_several_tars(tmp_path):
    for name in ('a.tar', 'b.tar'): pack(tmp_path/name, (val(1), jpeg()))
    with pytest.raises(InputError, match='a.tar, b.tar; name the one'): open_images(tmp_path)
    official(tmp_path)
    assert len(open_images(tmp_path)) == 3

def special(name, kind, **attributes):
    m = tarfile.TarInfo(name)
    m.type = kind
    for k, v in attributes.items(): setattr(m, k, v)
    return m, b''

def test_hostile_members(tmp_path):
    "Whatever members call themselves, their bytes are read from the tar and nowhere else, and nothing is written."
    (tmp_path/'secret.png').write_bytes(jpeg())
    file = pack(tmp_path/'in'/'x.tar', (str(tmp_path/'absolute.png'), jpeg(10)), ('../../up.png', jpeg(20)), ('esc\x1b[2J.png', jpeg(30)),
                ('bytes\udcff.png', jpeg(40)), ('.hidden.png', b''), ('._mac.png', b''), ('.git/x.png', b''),
                special('link.png', tarfile.SYMTYPE, linkname=str(tmp_path/'secret.png')),
                special('hard.png', tarfile.LNKTYPE, linkname='../secret.png'), special('folder.png', tarfile.DIRTYPE),
                special('zero.png', tarfile.CHRTYPE, devmajor=1, devminor=5), special('disk.png', tarfile.BLKTYPE),
                special('pipe.png', tarfile.FIFOTYPE), special('sparse.png', tarfile.GNUTYPE_SPARSE))
    images = open_images(file)
    assert sorted(i.name for i in images) == ['absolute.png', 'bytes\ufffd.png', 'esc?[2J.png', 'up.png']
    assert not any(i.open() is None for i in images)
    assert sorted(p.name for p in tmp_path.rglob('*')) == ['in', 'secret.png', 'x.tar']

def test_a_member_that_claims_to_be_huge(tmp_path):
    file = pack(tmp_path/'x.tar', ('a.png', jpeg()))
    m = tarfile.TarInfo('big.png')
    m.size = 2**30
    data = file.read_bytes()
    file.write_bytes(m.tobuf(tarfile.GNU_FORMAT) + data)
    with pytest.raises(InputError, match='cannot be read to its end'): open_images(file)
    with file.open('wb') as f:
        f.write(m.tobuf(tarfile.GNU_FORMAT)); f.seek(2**30 + 512); f.write(bytes(1024)) # sparse on the disk
    with pytest.raises(UnreadableImage, match='bytes are more than'): open_images(file)[0].open()

def test_a_member_that_points_backwards(tmp_path):
    m, data = tarfile.TarInfo('a.png').tobuf(), pack(tmp_path/'x.tar', ('b.png', jpeg())).read_bytes()
    m = bytearray(m)
    m[124:136] = (-1024).to_bytes(12, 'big', signed=True) # the size
    m[148:156] = b'%06o\0 ' % (sum(m[:148]) + sum(m[156:]) + 8*32)
    (tmp_path/'x.tar').write_bytes(data[:512*3] + bytes(m) + bytes(2048))
    with pytest.raises(InputError, match='cannot be read to its end'): open_images(tmp_path/'x.tar')

def test_a_bomb_in_a_tar(tmp_path):
    image, = open_images(pack(tmp_path/'x.tar', ('a.png', png(60_000, 60_000))))
    with pytest.raises(UnreadableImage, match='a.png in .*x.tar cannot be read'): image.open()

def test_members_open_in_other_processes_and_threads(tmp_path):
    images = open_images(devkit(official(tmp_path).parent).parent)
    assert pickle.loads(pickle.dumps(images[1])) == images[1] == eval(repr(images[1]), vars(packed) | {'PosixPath': Path})
    assert sizes_elsewhere(images) == [(20, 10)]*3
    with ThreadPoolExecutor(4) as pool: assert list(pool.map(size, [images[i % 3] for i in range(60)])) == [(20, 10)]*60

def size(item): return item.open().size

def sizes_elsewhere(images):
    "As two other processes see them, begun in the midst of this one's reading."
    with multiprocessing.get_context('fork').Pool(2) as pool: return pool.map_async(size, images, chunksize=1).get(60)

def test_a_changed_tar_is_read_and_selected_anew(tmp_path, net):
    cache = tmp_path/'cache'
    tables = []
    for shade in (0, 255):
        pack(tmp_path/'x.tar', *((val(i), jpeg(shade)) for i in range(1, 2 + (shade > 0))))
        tables.append(select(net, open_images(tmp_path/'x.tar'), cache=cache))
        select(net, open_images(tmp_path/'x.tar'), cache=cache)
    assert [len(t) for t in tables] == [1, 2] and len(list(cache.iterdir())) == 2


# Parquet

IMAGE = pa.struct({'bytes': pa.binary(), 'path': pa.string()})

def tabulate(file, labels, paths=None, names=None, group=2, images=None):
    "A Parquet file as the Hugging Face hub has them; the images grow lighter with their row."
    file.parent.mkdir(parents=True, exist_ok=True)
    images = images or [jpeg(5*i) for i in range(len(labels))]
    image = pa.array([dict(bytes=b, path=p) for b,p in zip(images, paths or [val(i + 1) for i in range(len(labels))])], IMAGE)
    table = pa.table({'image': image, 'label': pa.array(labels, pa.int64())})
    if names:
        table = table.replace_schema_metadata({'huggingface': json.dumps({'info': {'features': {'label': {'names': names,
            '_type': 'ClassLabel'}}}})})
    pq.write_table(table, file, row_group_size=group)
    return file

def test_a_folder_of_parquet(tmp_path):
    tabulate(tmp_path/'data/validation-00000-of-00002.parquet', [5, 7, None, 999, 0],
             ['a/b/x.JPEG', None, 'c:\\y.JPEG', '/etc/z.JPEG', 'w.JPEG'])
    tabulate(tmp_path/'data/validation-00001-of-00002.parquet', [1, -1])
    tabulate(tmp_path/'data/train-00000-of-00001.parquet', [1])
    (tmp_path/'data/._validation-00000-of-00002.parquet').write_bytes(b'')
    for spec in (tmp_path, tmp_path/'data'):
        images = open_images(spec)
        assert labels(images) == [5, 7, None, 999, 0, 1, None] and len(images.categories) == 1000
        assert images.source == 'the column label, which knows 5'
        assert [i.name for i in images] == ['x.JPEG', 'validation-00000-of-00002-00001', 'y.JPEG', 'z.JPEG', 'w.JPEG', val(1), val(2)]
        assert images.layout == 'Parquet, 2 files'
    shade = lambda i: images[i].open().getpixel((5, 5))[0]
    assert [shade(i) for i in (4, 0, 3, 1, 6, 2)] == pytest.approx([20, 0, 15, 5, 5, 10], abs=3)
    (tmp_path/'data/validation-00000-of-00002.parquet').unlink()
    assert open_images(tmp_path).layout == 'Parquet, 1 file of 2' and 'all 2 files' in open_images(tmp_path).advice
    assert labels(open_images(tmp_path)) == [1, None]

def test_one_parquet_file_in_several_batches_of_one_group(tmp_path):
    images = open_images(tabulate(tmp_path/'x.parquet', [0]*50, group=50))
    order = np.random.default_rng(0).permutation(50)
    assert [images[int(i)].open().getpixel((5, 5))[0] for i in order] == pytest.approx((5*order).tolist(), abs=3)
    assert sizes_elsewhere(images) == [(20, 10)]*50
    with ThreadPoolExecutor(4) as pool: assert list(pool.map(size, images)) == [(20, 10)]*50

def test_class_names_of_the_hub(tmp_path):
    file = tabulate(tmp_path/'x.parquet', [1, 0], names=['cat', 'dog'])
    assert open_images(file).categories == ['cat', 'dog']
    with pytest.raises(InputError, match='label 2; labels must be from 0 to 1'): open_images(tabulate(file, [1, 2], names=['cat', 'dog']))
    with pytest.raises(InputError, match='label 1000; labels must be from 0 to 999'): open_images(tabulate(file, [1000]))
    pq.write_table(pq.read_table(tabulate(file, [1])).replace_schema_metadata({'huggingface': '{"info": [}'}), file)
    assert len(open_images(file).categories) == 1000

def test_parquet_without_labels(tmp_path):
    images = open_images(tabulate(tmp_path/'x.parquet', [-1, -1]))
    assert labels(images) == [None, None] and images.categories is None and 'validation-*.parquet' in images.advice
    pq.write_table(pq.read_table(tmp_path/'x.parquet').select(['image']), tmp_path/'x.parquet')
    assert labels(open_images(tmp_path/'x.parquet')) == [None, None]
    pq.write_table(pa.table({'image': pa.array([dict(bytes=jpeg())]*3)}), tmp_path/'x.parquet')
    assert [i.name for i in open_images(tmp_path/'x.parquet')] == [f'x-0000{i}' for i in range(3)]

@pytest.mark.parametrize('columns', [{'a': [1], 'b': ['x']}, {'image': [b'x'], 'label': [1]}, {'image': [dict(path='x')], 'label': [1]},
                                     {'image': [dict(bytes='text')], 'label': [1]}, {'image': [dict(bytes=b'x')], 'label': ['dog']}])
def test_wrong_columns(tmp_path, columns):
    pq.write_table(pa.table(columns), tmp_path/'x.parquet')
    with pytest.raises(InputError, match=r'x.parquet has the columns .*needed are image \(struct'): open_images(tmp_path)

@pytest.mark.parametrize('bad', ['empty', 'text', 'cut'])
def test_a_damaged_parquet_file(tmp_path, bad):
    file = tabulate(tmp_path/'x.parquet', [0, 1])
    file.write_bytes(dict(empty=b'', text=b'no table'*99, cut=file.read_bytes()[:-99])[bad])
    with pytest.raises(InputError, match='x.parquet cannot be read as Parquet'): open_images(tmp_path)

def test_rows_that_cannot_be_read(tmp_path):
    (tmp_path/'secret.png').write_bytes(jpeg())
    images = open_images(tabulate(tmp_path/'x.parquet', [0]*4, ['a', str(tmp_path/'secret.png'), 'c', 'd'],
                                  images=[jpeg(), None, b'no image', png(60_000, 60_000)]))
    assert images[0].open().size == (20, 10)
    for i, why in ((1, 'holds no bytes'), (2, 'not those of JPEG'), (3, 'pixels')):
        with pytest.raises(UnreadableImage, match=why): images[i].open()

def test_a_parquet_file_damaged_in_the_middle(tmp_path):
    noise = [np.random.default_rng(i).bytes(5000) for i in range(6)]
    file = tabulate(tmp_path/'x.parquet', [0]*6, images=noise)
    data = file.read_bytes()
    at = data.index(noise[2][:50])
    file.write_bytes(data[:at - 4] + b'\xff'*4 + data[at:])
    with pytest.raises(UnreadableImage, match='ArrowInvalid|OSError'): open_images(file)[2].open()

def test_an_empty_parquet_file(tmp_path):
    with pytest.raises(InputError, match='holds no images'): open_images(tabulate(tmp_path/'x.parquet', []))

def test_parquet_through_a_network(tmp_path, net):
    images = open_images(tabulate(tmp_path/'x.parquet', [0, 1, 1], images=[jpeg(0), jpeg(255), b''], names=['dark', 'light']))
    table = select(net, images, cache=tmp_path/'cache')
    assert table.label.tolist() == [0, 1, 1] and 'x.parquet cannot be read' in table.error[2]


# what is missing

def whole(n=50_000, change=lambda labels: None):
    labels = [i % 1000 for i in range(n)]
    change(labels)
    return Images([Photo(Path(f'{i}.JPEG'), k) for i,k in enumerate(labels)], [f'n{i:08d}' for i in range(1000)])

@pytest.mark.parametrize('images, said', [
    (whole(), '50,000 images, 50 per class: the complete validation set'),
    (whole(49_999), "not the complete validation set of 50,000 images, 50 per class: 1 class with fewer than 50 ('n00000999' has 49)"),
    (whole(50_001), "not the complete validation set of 50,000 images, 50 per class: 1 class with more than 50 ('n00000000' has 51)"),
    (whole(100, lambda k: k.__setitem__(0, 7)),
     "not the complete validation set of 50,000 images, 50 per class: 1,000 classes with fewer than 50 ('n00000000' has 0)"),
    (whole(change=lambda k: k.__setitem__(0, 7)),
     "not the complete validation set of 50,000 images, 50 per class: 1 class with fewer than 50 ('n00000000' has 49); 1 class with more "
     "than 50 ('n00000007' has 51)"),
    (whole(change=lambda k: k.__setitem__(0, None)),
     "not the complete validation set of 50,000 images, 50 per class: 1 class with fewer than 50 ('n00000000' has 49)"),
    (whole(50_050, lambda k: k.__setitem__(slice(50_000, None), [None]*50)),
     'not the complete validation set of 50,000 images, 50 per class: 50,050 images'),
    (Embedded(5), ''),
    (open_images('embedded:5', labels=False), '')])
def test_completeness(images, said):
    assert completeness(images) == said
    if images.categories: assert per_class(images).sum() == sum(i.label is not None for i in images)

def test_what_cannot_be_read(tmp_path):
    put(tmp_path, 'a.png', 'b.png')
    (tmp_path/'a.png').write_bytes(b'')
    seen = []
    assert [n for n,_ in unreadable(open_images(tmp_path), lambda: seen.append(1))] == ['a.png'] and len(seen) == 2


# files

@pytest.mark.parametrize('mode', ['RGB', 'L', 'P', 'RGBA', 'LA', 'CMYK', '1', 'I;16', 'I'])
def test_every_kind_of_pixel_becomes_rgb(tmp_path, mode):
    file = tmp_path/('x.jpg' if mode == 'CMYK' else 'x.png')
    if mode in ('I;16', 'I'): Image.fromarray(np.full((8, 8), 51_400, 'uint16')).save(file)
    else: Image.new(mode, (8, 8)).save(file)
    im = Photo(file).open()
    assert im.mode == 'RGB' and im.size == (8, 8)
    if mode.startswith('I'): assert im.getpixel((0, 0)) == (200, 200, 200)

def test_the_rotation_flag_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new('RGB', (20, 10)).save(tmp_path/'x.jpg', exif=exif)
    assert Photo(tmp_path/'x.jpg').open().size == (20, 10)

def png(width, height):
    "The few bytes of a PNG that says it is so large."
    parts = [(b'IHDR', struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)), (b'IDAT', zlib.compress(bytes(1000))), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d)) for k,d in parts)

@pytest.mark.parametrize('bad', ['empty', 'text', 'truncated', 'folder', 'missing', 'float', 'postscript'])
def test_files_that_cannot_be_read(tmp_path, bad):
    file = tmp_path/'x.png'
    Image.effect_noise((200, 200), 50).save(file)
    if bad == 'empty': file.write_bytes(b'')
    if bad == 'text': file.write_text('not an image')
    if bad == 'truncated': file.write_bytes(file.read_bytes()[:5000])
    if bad in ('folder', 'missing'): file.unlink()
    if bad == 'folder': file.mkdir()
    if bad == 'float':
        file = tmp_path/'x.tif'
        Image.new('F', (4, 4)).save(file)
    if bad == 'postscript': file.write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n')
    with pytest.raises(UnreadableImage) as e: Photo(file).open()
    assert str(file) in str(e.value)

@pytest.mark.parametrize('side', [9_000, 10_000, 60_000]) # above our limit, where Pillow warns, and where it refuses
@pytest.mark.parametrize('strict', [False, True])
@pytest.mark.filterwarnings('ignore:Image size')
def test_a_decompression_bomb(tmp_path, side, strict):
    (tmp_path/'x.png').write_bytes(png(side, side))
    with warnings.catch_warnings():
        if strict: warnings.simplefilter('error')
        with pytest.raises(UnreadableImage, match='x.png cannot be read.*pixels'): Photo(tmp_path/'x.png').open()


# batches and selection

def test_a_batch_names_what_it_leaves_out(tmp_path, net):
    put(tmp_path, 'a.png', 'c.png')
    (tmp_path/'b.png').write_bytes(b'')
    batch = load_batch(net, open_images(tmp_path))
    assert batch.names == ['a.png', 'c.png'] and batch.index == [0, 2] and batch.pixels.shape == (2, 3, 16, 16)
    assert batch.skipped[0][0] == 'b.png' and 'cannot be read' in batch.skipped[0][1]
    assert load_batch(net, open_images(tmp_path/'b.png')).pixels.shape == (0, 3, 16, 16)

def shades(root, **files):
    for name, grey in files.items():
        folder = root/('dark' if name.startswith('dark') else 'light')
        folder.mkdir(parents=True, exist_ok=True)
        if grey is None: (folder/f'{name}.png').write_bytes(b'')
        else: Image.new('RGB', (20, 20), (grey,)*3).save(folder/f'{name}.png')
    return open_images(root)

def test_selection(tmp_path, net):
    table = select(net, shades(tmp_path, dark1=0, dark2=200, dark3=None, light1=230, light2=130, light3=255), batch_size=4)
    assert table.name.tolist() == ['dark1.png', 'dark2.png', 'dark3.png', 'light1.png', 'light2.png', 'light3.png']
    assert table['index'].tolist() == list(range(6)) and table.label.tolist() == [0, 0, 0, 1, 1, 1]
    assert table.predicted.tolist() == [0, 1, -1, 1, 1, -1]
    assert table.correct.tolist() == [True, False, False, True, True, False]
    assert table.confident.tolist() == [True, False, False, True, False, False]
    assert 'cannot be read' in table.error[2] and 'not finite' in table.error[5] and table.error[0] == ''
    assert table.prob_label[1] == pytest.approx(1 - table.prob[1], abs=1e-6) and np.isnan(table.prob[2])

def test_all_images_unreadable(tmp_path, net):
    table = select(net, shades(tmp_path, dark1=None, light1=None))
    assert not table.correct.any() and (table.error != '').all()

def test_the_selection_is_computed_once(tmp_path, net):
    images, cache = shades(tmp_path/'images', dark1=0, light1=230, light2=None), tmp_path/'cache'
    table = select(net, images, cache=cache)
    calls = net.module.calls
    pd.testing.assert_frame_equal(select(net, images, cache=cache), table)
    assert net.module.calls == calls and len(list(cache.iterdir())) == 1
    select(net, images[:1], cache=cache)
    select(Network(net.name, net.module, (.1, 0, 0), net.std, 16, 16), images, cache=cache)
    Image.new('RGB', (20, 20), (9,)*3).save(images[0].path)
    select(net, images, cache=cache)
    assert len(list(cache.iterdir())) == 4 and not list(cache.glob('.*'))

def test_labels_of_other_classes_are_refused(tmp_path, net):
    with pytest.raises(InputError, match='3 classes and the network 2'):
        select(net, open_images(put(tmp_path, 'a/1.png', 'b/1.png', 'c/1.png')))

def test_a_network_of_nothing_but_nan(tmp_path, net):
    with pytest.raises(InputError, match='no finite value'): select(net, shades(tmp_path, dark1=255, light1=255))

@pytest.mark.skipif(not (REALDATA/'imagenet-sample').is_dir(), reason='real images are not here')
def test_real_photographs_open():
    images = open_images(REALDATA/'imagenet-sample')
    batch = load_batch(Network('n', nn.Identity()), images[500:508])
    assert batch.pixels.shape == (8, 3, 224, 224) and batch.labels.tolist() == list(range(500, 508)) and not batch.skipped


# digests

def as_member(root, data): return open_images(pack(root/'x.tar', ('x.png', data)))[0]
def as_row(root, data): return open_images(tabulate(root/'x.parquet', [0], images=[data]))[0]
def as_photo(root, data):
    (root/'x.png').write_bytes(data)
    return Photo(root/'x.png')

@pytest.mark.parametrize('kind', [as_photo, as_member, as_row])
def test_a_replaced_picture_has_another_digest(tmp_path, kind):
    "Whether or not its file's size and time of change tell."
    dark, light = (BytesIO(), BytesIO())
    for file, shade in ((dark, 0), (light, 255)): Image.new('RGB', (20, 10), (shade,)*3).save(file, 'BMP')
    item = kind(tmp_path, dark.getvalue())
    first, times = item.digest(), os.stat(item.path)
    assert first == hashlib.sha256(dark.getvalue()).hexdigest()[:16] == item.digest() == item.read()[1]
    other = kind(tmp_path, light.getvalue())
    os.utime(item.path, ns=(times.st_atime_ns, times.st_mtime_ns + (kind is as_row))) # a cursor on a row remembers the file by its state
    assert other.digest() != first and (other.name, other.path) == (item.name, item.path)
    image, digest = other.read()
    assert image.getpixel((3, 3)) == (255, 255, 255) and digest == other.digest()

def test_the_digest_is_of_the_bytes_wherever_they_lie(tmp_path):
    data = jpeg()
    assert len({kind(tmp_path, data).digest() for kind in (as_photo, as_member, as_row)}) == 1

def test_the_digest_of_a_drawn_picture():
    items = [Shape(0, 3), Shape(1, 3), Shape(0, 13), Shape(0, 3, 1)]
    assert len({i.digest() for i in items}) == 4 and Shape(0, 3, label=3).digest() == Shape(0, 3).digest()

def test_a_picture_that_is_drawn_otherwise_has_another_digest(monkeypatch):
    before = Shape(0, 3).digest()
    monkeypatch.setattr('idgi_repro.study.images.draw', lambda *numbers: (draw(*numbers)[0] ^ 1, None))
    assert Shape(0, 3).digest() != before

def test_no_bytes_no_digest(tmp_path):
    for item in (Photo(tmp_path/'none.png'), Photo(tmp_path)):
        with pytest.raises(UnreadableImage, match='cannot be read'): item.digest()

@pytest.mark.skipif(not hasattr(os, 'mkfifo'), reason='no pipes')
def test_a_pipe_is_no_photograph(tmp_path):
    os.mkfifo(tmp_path/'x.png')
    (image,) = open_images(tmp_path)
    for take in (image.open, image.digest, image.read):
        with pytest.raises(UnreadableImage, match='a pipe or a device'): take()

def test_selection_notes_digests_and_reads_once(tmp_path, net, monkeypatch):
    images = shades(tmp_path, dark1=0, light1=230, light2=None)
    reads, source = [], Photo.source
    monkeypatch.setattr(Photo, 'source', lambda self: reads.append(self.name) or source(self))
    table = select(net, images, batch_size=2)
    assert sorted(reads) == ['dark1.png', 'light1.png', 'light2.png']
    assert table.digest.tolist() == [images[0].digest(), images[1].digest(), '']

def test_a_selection_without_digests_is_made_again(tmp_path, net):
    images, cache = shades(tmp_path/'images', dark1=0, light1=230), tmp_path/'cache'
    table = select(net, images, cache=cache)
    (file,) = cache.iterdir()
    table.drop(columns='digest').to_parquet(file)
    calls = net.module.calls
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        pd.testing.assert_frame_equal(select(net, images, cache=cache), table)
    assert net.module.calls > calls and list(cache.iterdir()) == [file] and 'digest' in pd.read_parquet(file)

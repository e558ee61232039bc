"Images: every layout, every bad file, and the selection that is computed once."
import hashlib, os, struct, warnings, zlib
from pathlib import Path

import numpy as np, pandas as pd, pytest, torch
from PIL import Image
from torch import nn

from idgi_repro.data import SHAPES, SIDE, Embedded, Photo, UnreadableImage, draw, load_batch, open_images, select
from idgi_repro.gradients import InputError
from idgi_repro.models import Network

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
    assert digest.startswith('45da5f2e6615d0a2'), 'the embedded set has changed: train the embedded networks again (experiments/train_embedded)'

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
    write(tmp_path/at/'val_annotations.txt', f'b.JPEG\t{TENCH}\t0\t0\t62\t62', f'a.JPEG\t{GOLDFISH}', '', f'c.JPEG\t{TENCH}', f'unused.JPEG\t{TENCH}')
    write(tmp_path/at/'wnids.txt', GOLDFISH, TENCH)
    images = open_images(tmp_path)
    assert labels(images) == [0, 1, 1] and images.categories == [GOLDFISH, TENCH] and images[0].name == 'a.JPEG'

@pytest.mark.parametrize('lines, said', [
    ([f'a.JPEG\tn09999999', f'b.JPEG\t{TENCH}'], "'n09999999' is not among"),
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

@pytest.mark.parametrize('spec, said', [('nowhere', 'no file or folder'), ('embedded:0', 'positive'), ('embedded:-3', 'positive'), ('embedded:ten', 'positive')])
def test_paths_that_lead_nowhere(spec, said):
    with pytest.raises(InputError, match=said): open_images(spec)

def test_an_empty_folder(tmp_path):
    (tmp_path/'only.txt').touch()
    with pytest.raises(InputError, match=r'\.jpeg'): open_images(tmp_path)


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
    with pytest.raises(InputError, match='3 classes and the network 2'): select(net, open_images(put(tmp_path, 'a/1.png', 'b/1.png', 'c/1.png')))

def test_a_network_of_nothing_but_nan(tmp_path, net):
    with pytest.raises(InputError, match='no finite value'): select(net, shades(tmp_path, dark1=255, light1=255))

@pytest.mark.skipif(not (REALDATA/'imagenet-sample').is_dir(), reason='real images are not here')
def test_real_photographs_open():
    images = open_images(REALDATA/'imagenet-sample')
    batch = load_batch(Network('n', nn.Identity()), images[500:508])
    assert batch.pixels.shape == (8, 3, 224, 224) and batch.labels.tolist() == list(range(500, 508)) and not batch.skipped

"Odd pictures: what comes of each, or the reason for which it is skipped."
import struct
from dataclasses import replace
from io import BytesIO

import numpy as np, pytest, torch
from PIL import Image, ImageOps, features
from torch import nn

from idgi_repro.errors import InputError
from idgi_repro.papers.idgi import PAPER
from idgi_repro.records import Method
from idgi_repro.report.explain import _seen
from idgi_repro.report.tables import exclusions
from idgi_repro.study.images import SUFFIXES, Embedded, Photo, UnreadableImage, blurred, load_batch, pixels_of, recompressed
from idgi_repro.study.imagenet import open_images
from idgi_repro.study.models import Network, load
from idgi_repro.study.scene import seed_of, views
from idgi_repro.study.selection import choose
from idgi_repro.study.shard import Shard, rows_of

RAMP = np.arange(16, dtype='uint8').reshape(4, 4)*17 # 0 to 255


def saved(file, image, format=None, **options):
    image.save(file, format, **options)
    return Photo(file)

def tiff(file, levels, bits, kind=1, white=1, width=4):
    "A TIFF of grey levels with tags that Pillow does not write."
    data = levels.tobytes()
    tags = (256, 4, width), (257, 4, levels.shape[0]), (258, 3, bits), (259, 3, 1), (262, 3, white), (273, 4, 8), (277, 3, 1), (278, 4,
        levels.shape[0]), (279, 4, len(data)), (339, 3, kind)
    file.write_bytes(b'II*\0' + struct.pack('<I', 8 + len(data)) + data + struct.pack('<H', len(tags))
                     + b''.join(struct.pack('<HHII', t, k, 1, v) for t, k, v in tags) + bytes(4))
    return Photo(file)

def packed12(levels):
    a, b = levels.astype('uint16').reshape(-1, 2).T
    return np.stack([a >> 4, (a & 15) << 4 | b >> 8, b & 255], 1).astype('uint8').reshape(len(levels), -1)

@pytest.fixture
def net(): return Network('flat', Flat(), (0, 0, 0), (1, 1, 1), resize=16, crop=16)

class Flat(nn.Module):
    def forward(self, x): return torch.stack([x.mean((1, 2, 3)), 1 - x.mean((1, 2, 3))], 1)


# pixels

READ = dict(
    grey      = (lambda f: saved(f/'x.png', Image.fromarray(RAMP)), RAMP),
    grey16    = (lambda f: saved(f/'x.png', Image.fromarray(RAMP.astype('uint16')*257)), RAMP),
    tiff16    = (lambda f: saved(f/'x.tif', Image.fromarray(RAMP.astype('uint16')*256 + 255)), RAMP),
    black16   = (lambda f: saved(f/'x.png', Image.fromarray(RAMP.astype('uint16')*0)), RAMP*0),
    tiff12    = (lambda f: tiff(f/'x.tif', packed12(RAMP.astype('uint16')*16), 12), RAMP),
    white0    = (lambda f: tiff(f/'x.tif', RAMP.astype('uint16')*257, 16, white=0), 255 - RAMP),
    white0of8 = (lambda f: tiff(f/'x.tif', RAMP, 8, white=0), 255 - RAMP),
    pgm16     = (lambda f: saved(f/'x.pgm', Image.fromarray(RAMP.astype('uint16')*257)), RAMP),
    pgm12     = (lambda f: ((f/'x.pgm').write_bytes(b'P5 4 4 4095\n' + (RAMP.astype(int)*4095//255).astype('>u2').tobytes()),
                            Photo(f/'x.pgm'))[1], RAMP),
    jp2of16   = (lambda f: saved(f/'x.jp2', Image.fromarray(RAMP.astype('uint16')*257)), RAMP),
    bits      = (lambda f: saved(f/'x.png', Image.fromarray(RAMP > 127)), np.where(RAMP > 127, 255, 0)),
    bitstiff  = (lambda f: saved(f/'x.tif', Image.fromarray(RAMP > 127)), np.where(RAMP > 127, 255, 0)),
    greyalpha = (lambda f: saved(f/'x.png', Image.merge('LA', [Image.fromarray(RAMP), Image.new('L', (4, 4), 9)])), RAMP),
    alpha     = (lambda f: saved(f/'x.png', Image.merge('RGBA', [Image.fromarray(RAMP)]*3 + [Image.new('L', (4, 4), 0)])), RAMP),
    palette   = (lambda f: saved(f/'x.png', Image.fromarray(RAMP).convert('P')), RAMP),
    clear     = (lambda f: saved(f/'x.png', Image.fromarray(RAMP).convert('P'), transparency=bytes(256)), RAMP),
    oneclear  = (lambda f: saved(f/'x.gif', Image.fromarray(RAMP).convert('P'), transparency=3), None),
    cleargrey = (lambda f: saved(f/'x.png', Image.fromarray(RAMP), transparency=17), RAMP),
    cmyk      = (lambda f: saved(f/'x.tif', Image.merge('CMYK', [Image.new('L', (4, 4))]*3 + [Image.fromarray(255 - RAMP)])), RAMP),
    apng      = (lambda f: saved(f/'x.apng', Image.fromarray(RAMP), 'PNG'), RAMP))

@pytest.mark.parametrize('case', READ)
def test_pixels_that_are_read(tmp_path, case, recwarn):
    make, grey = READ[case]
    image, digest = make(tmp_path).read()
    assert image.mode == 'RGB' and image.size == (4, 4) and len(digest) == 16 and not recwarn.list
    if grey is not None: assert (np.asarray(image) == np.asarray(grey)[..., None]).all()

REFUSED = dict(
    int32      = (lambda f: saved(f/'x.tif', Image.fromarray(RAMP.astype('int32'))), 'no known range; save the picture with 8 or 16 bits'),
    int32of16  = (lambda f: saved(f/'x.tif', Image.fromarray(RAMP.astype('int32')*257)), 'no known range'),
    uint32     = (lambda f: tiff(f/'x.tif', RAMP.astype('uint32'), 32), '32-bit pixels have no known range'),
    signed16   = (lambda f: tiff(f/'x.tif', RAMP.astype('int16'), 16, kind=2), 'signed pixels'),
    signed8    = (lambda f: tiff(f/'x.tif', RAMP.astype('int8'), 8, kind=2), 'signed pixels'),
    float1     = (lambda f: saved(f/'x.tif', Image.fromarray(RAMP.astype('float32')/255)), 'floating-point pixels have no known range'),
    float255   = (lambda f: saved(f/'x.tif', Image.fromarray(RAMP.astype('float32'))), 'floating-point'),
    floatnan   = (lambda f: saved(f/'x.tif', Image.fromarray(np.full((4, 4), np.nan, 'float32'))), 'floating-point'),
    pfm        = (lambda f: saved(f/'x.pfm', Image.fromarray(RAMP.astype('float32')), 'PPM'), 'floating-point'),
    low16      = (lambda f: saved(f/'x.png', Image.fromarray(RAMP.astype('uint16'))), 'at most 255, so their range is not known'),
    low16tiff  = (lambda f: saved(f/'x.tif', Image.fromarray(RAMP.astype('uint16')//17)), 'at most 15'),
    line       = (lambda f: saved(f/'x.png', Image.new('L', (1, 8_000))), '1 x 8,000 pixels are more than 100 times'),
    flat       = (lambda f: saved(f/'x.png', Image.new('L', (8_000, 1))), '8,000 x 1 pixels are more than 100 times'),
    strip      = (lambda f: saved(f/'x.png', Image.new('1', (20, 2_001))), 'more than 100 times'),
    long       = (lambda f: saved(f/'x.png', Image.new('1', (65_501, 700))), 'longer than 65,500'),
    bomb       = (lambda f: saved(f/'x.png', Image.new('1', (9_000, 9_000))), 'more than the 80,000,000'),
    gifbomb    = (lambda f: ((f/'x.gif').write_bytes(b'GIF89a' + struct.pack('<HHBBB', 65_000, 65_000, 0, 0, 0) + b';'),
                             Photo(f/'x.gif'))[1], 'x.gif cannot be read'),
    empty      = (lambda f: ((f/'x.png').touch(), Photo(f/'x.png'))[1], 'not those of JPEG'),
    none       = (lambda f: ((f/'x.pgm').write_bytes(b'P5 0 4 255\n'), Photo(f/'x.pgm'))[1], 'x.pgm cannot be read'),
    nobmp      = (lambda f: ((f/'x.bmp').write_bytes(saved(f/'y.bmp', Image.new('L', (4, 4))).path.read_bytes()[:18] + bytes(99)),
                             Photo(f/'x.bmp'))[1], 'x.bmp cannot be read'),
    cut        = (lambda f: ((p := saved(f/'x.jpg', Image.effect_noise((90, 90), 90))).path.write_bytes(p.path.read_bytes()[:900]), p)[1],
                  'x.jpg cannot be read'),
    cutjp2     = (lambda f: ((p := saved(f/'x.jp2', Image.effect_noise((90, 90), 90))).path.write_bytes(p.path.read_bytes()[:90]), p)[1],
                  'x.jp2 cannot be read'),
    html       = (lambda f: ((f/'x.jpg').write_text('<html>404'), Photo(f/'x.jpg'))[1], 'not those of JPEG'),
    eps        = (lambda f: ((f/'x.jpg').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n'), Photo(f/'x.jpg'))[1],
                  'not those of JPEG'))

@pytest.mark.parametrize('case', REFUSED)
@pytest.mark.filterwarnings('ignore')
def test_pictures_that_are_skipped_with_a_reason(tmp_path, net, case):
    make, reason = REFUSED[case]
    odd = make(tmp_path)
    with pytest.raises(UnreadableImage, match='cannot be read as an image') as e: odd.open()
    assert reason in str(e.value)
    batch = load_batch(net, [odd, Embedded(1)[0]])
    assert batch.index == [1] and batch.skipped[0][0] == odd.name and reason in batch.skipped[0][1]

def test_one_odd_picture_does_not_take_the_selection_down(tmp_path, net):
    for n, size in dict(a=(20, 20), b=(1, 8_000), c=(8_000, 1), d=(30, 10)).items(): Image.new('L', size, 9).save(tmp_path/f'{n}.png')
    chosen, unread = choose(net, open_images(tmp_path), 9)
    assert sorted(chosen.name) == ['a.png', 'd.png'] and unread.name.tolist() == ['b.png', 'c.png']
    assert unread.error.str.contains('times as long').all()

@pytest.mark.parametrize('size', [(1, 1), (1, 100), (100, 1), (2, 3), (700, 7)])
def test_small_and_narrow_pictures_have_all_views(tmp_path, net, size):
    items = [saved(tmp_path/'x.png', Image.new('RGB', size, (10, 200, 30)))]
    seen = views(net, items)
    assert all(v.shape == (1, 3, 16, 16) for v in (seen.pixels, seen.blurred, seen.reencoded))

def test_the_longest_picture_has_a_jpeg():
    image = Image.new('RGB', (65_500, 655))
    assert recompressed(image).size == image.size


# the range of what leaves the room

class Overshooting(Network):
    by = 1.
    def pixels(self, image): return (super().pixels(image.resize((40, 40), Image.Resampling.BICUBIC)) - .5)*self.by + .5

@pytest.mark.parametrize('by', [1., 1.04, 3., 1e6])
@pytest.mark.parametrize('shade', [0, 255])
def test_pixels_lie_within_0_and_1(tmp_path, by, shade):
    net = Overshooting('over', nn.Identity(), resize=32, crop=32)
    net.by = by
    photo = saved(tmp_path/'x.png', Image.new('RGB', (9, 9), (shade,)*3))
    for pixels in (pixels_of(net, photo.open())[None], load_batch(net, [photo]).pixels, load_batch(net, [photo], blurred).pixels):
        assert pixels.min() >= 0 and pixels.max() <= 1

def test_ordinary_pixels_are_as_they_were():
    net = load('mini_resnet')
    for item in Embedded(3): assert torch.equal(pixels_of(net, item.open()), net.pixels(item.open()))


# which way is up

@pytest.mark.parametrize('flag', [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 99])
@pytest.mark.parametrize('suffix', ['.jpg', '.png', '.tif', '.webp'])
def test_the_rotation_flag(tmp_path, flag, suffix):
    exif, image = Image.Exif(), Image.effect_noise((24, 16), 90).convert('RGB')
    exif[0x0112] = flag
    photo = saved(tmp_path/f'x{suffix}', image, exif=exif, **dict(lossless=True) if suffix == '.webp' else {})
    with Image.open(photo.path) as im: expected = ImageOps.exif_transpose(im).convert('RGB')
    assert (np.asarray(photo.open(upright=True)) == np.asarray(expected)).all()
    if suffix != '.tif': assert photo.open().size == (24, 16) # Pillow turns a TIFF in any case

@pytest.mark.parametrize('exif', [b'Exif\0\0', b'Exif\0\0garbage', b'Exif\0\0II*\0\xff\xff\xff\xff', b'Exif\0\0MM\0*\0\0\0\x08\xff\xff'])
@pytest.mark.filterwarnings('ignore')
def test_damaged_notes_of_a_camera(tmp_path, exif):
    assert saved(tmp_path/'x.jpg', Image.new('RGB', (24, 16)), exif=exif).open(upright=True).size == (24, 16)

def test_explain_shows_a_photograph_upright(tmp_path):
    exif, image = Image.Exif(), Embedded(1)[0].open().resize((192, 96))
    exif[0x0112] = 6
    image.save(tmp_path/'x.png', exif=exif)
    net, item = load('mini_resnet'), open_images(tmp_path/'x.png')[0]
    pixels = _seen(net, item, None, 'cpu').pixels
    assert torch.equal(pixels, pixels_of(net, image.transpose(Image.Transpose.ROTATE_270)))
    assert not torch.equal(pixels, load_batch(net, [item]).pixels[0]), 'a study has it as it lies in the file'
    assert _seen(net, Embedded(1)[0], None, 'cpu').pixels.shape == (3, 192, 192)


# which files are pictures

@pytest.mark.parametrize('suffix', ['.jpg', '.jpeg', '.JPEG', '.jfif', '.jpe', '.png', '.apng', '.bmp', '.tif', '.TIFF', '.ppm', '.pgm',
                                    '.gif', '.webp', '.jp2', '.j2k', '.jpx', '.avif'])
def test_suffixes_that_are_taken(tmp_path, suffix):
    if suffix == '.avif' and not features.check('avif') or suffix in ('.jp2', '.j2k', '.jpx') and not features.check('jpg_2000'):
        pytest.skip('not in this Pillow')
    image = Embedded(1)[0].open().resize((32, 32))
    (image.convert('L') if suffix == '.pgm' else image).save(tmp_path/f'x{suffix}', 'PNG' if suffix == '.apng' else None)
    (photo,) = open_images(tmp_path)
    assert photo.open().size == (32, 32)

@pytest.mark.parametrize('suffix', ['.svg', '.eps', '.ps', '.pdf', '.txt', '.ico', '.psd', '.npy', '', '.jpg.part', '.mp4', '.wmf'])
def test_suffixes_that_are_not(tmp_path, suffix):
    assert suffix not in SUFFIXES
    saved(tmp_path/'a.png', Image.new('L', (4, 4))).path.rename(tmp_path/f'x{suffix}')
    with pytest.raises(InputError, match='holds no images'): open_images(tmp_path)


# a constant image

@pytest.mark.parametrize('shade, method, constant', [(0, 'ig', True), (0, 'ig+idgi', True), (0, 'gig', True), (0, 'blurig', False),
                                                     (128, 'blurig', False), (128, 'ig', False), (255, 'ig', False)])
def test_what_a_constant_image_lacks_has_a_reason(tmp_path, shade, method, constant):
    net, items = load('mini_vgg'), [saved(tmp_path/'x.png', Image.new('RGB', (192, 192), (shade,)*3)), Embedded(1)[0]]
    shard = Shard(methods=(method,), metrics=('patchiness', 'stability_l1'), steps=(2,)).of(PAPER)
    about = [dict(network=net.name, data='photos', name=n, label=0, target=0, prob=.5, confident=False, seed=seed_of(n, 0)) for n in 'ab']
    rows = rows_of((net, net), views(net, items), about, shard, PAPER)
    assert ['constant map' in r['excluded'] for r in rows] == [constant, False]
    assert [np.isnan(r['patchiness']) for r in rows] == [constant, False]

SIGNS = dict( # a map's values; whether the object's place is known; why values are lacking, and whether the energy inside has one
    negative = (lambda m: -1 - m, True, 'no positive values', False),
    touching = (lambda m: -m, True, 'no positive values', False),
    unknown  = (lambda m: -1 - m, False, '', False),
    mixed    = (lambda m: m - m.mean(), True, '', True),
    zero     = (lambda m: 0*m, True, 'constant map', False),
    positive = (lambda m: m, True, '', True))

@pytest.mark.parametrize('case', SIGNS)
def test_energy_that_a_map_does_not_have_has_a_reason(tmp_path, case):
    made, known, why, energy = SIGNS[case]
    def maps(subject): return made(torch.arange(192.*192).view(1, 192, 192).expand(len(subject.x), -1, -1))
    paper = replace(PAPER, methods=(*PAPER.methods, Method('given', 'Given', function=maps)))
    net, item = load('mini_vgg'), Embedded(1)[0] if known else saved(tmp_path/'x.png', Image.new('RGB', (192, 192), 'gray'))
    about = [dict(network=net.name, data='photos', name='a', label=0, target=0, prob=.5, confident=False, seed=0)]
    shard = Shard(methods=('given',), metrics=('energy_inside', 'pointing'), steps=(2,)).of(paper)
    row, = rows_of((net, net), views(net, [item]), about, shard, paper)
    assert row['excluded'] == why and np.isnan(row['energy_inside']) != energy and np.isnan(row['pointing']) != known

def test_the_report_counts_constant_maps_apart_from_what_has_no_curves():
    import pandas as pd
    why = dict(a=['', 'constant map'], b=['constant map', 'constant map'], c=['not confident', 'not confident; constant map'], d=['', ''],
               e=['SIC: no rise; AIC: no rise', 'SIC: no rise; AIC: no rise'])
    rows = pd.DataFrame([dict(network='n', data='x', name=i, target=0, method=m, excluded=w) for i, ws in why.items() for m,
                         w in zip('pq', ws)])
    t = exclusions(rows, PAPER)
    found = t.frame.set_index('network').loc['n']
    assert found[['images', 'kept', 'not confident', 'SIC: no rise', 'AIC: no rise', 'constant map']].tolist() == [5, 3, 1, 1, 1, 3]
    assert 'no stability, patchiness, energy or distance' in t.caption and 'energy inside' not in t.caption
    t = exclusions(rows.assign(excluded=rows.excluded.str.replace('constant map', 'no positive values')), PAPER)
    found = t.frame.set_index('network').loc['n']
    assert found[['images', 'kept', 'not confident', 'no positive values']].tolist() == [5, 3, 1, 3] and 'no energy inside' in t.caption

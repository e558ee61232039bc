"What goes wrong around a run, and what it costs: at most the shard in hand."
import errno, json, multiprocessing, os, random, resource, signal, sys, time, warnings
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import numpy as np, pandas as pd, pyarrow.parquet as pq, pytest, torch
from torch import nn

from idgi_repro import files, jobs
from idgi_repro.errors import InputError
from idgi_repro.files import results_folder, whole
from idgi_repro.papers.idgi import PAPER
from idgi_repro.report.results import read
from idgi_repro.study import images as images_room, shard as room
from idgi_repro.study.imagenet import open_images
from idgi_repro.study.images import Embedded, Photo, load_batch
from idgi_repro.study.models import load
from idgi_repro.study.scene import Subject
from idgi_repro.study.selection import choose, select
from idgi_repro.study.shard import Shard, maps_file, read_maps, run, shard_file, stands, write

IG = ('ig', 'ig+idgi')
TINY = dict(network='mini_mobilenet', data='embedded:12', methods=IG, metrics=('insertion', 'delta', 'patchiness'), steps=(2,))
SHARDS = [Shard(**TINY | dict(data='embedded:24'), images=6, start=i, stop=i+1) for i in range(6)]


def computed(out, **changes): return run(Shard(**TINY | changes, out=str(out)), PAPER)


forks = multiprocessing.get_context('forkserver')       # torch is imported once; a process of its own then costs a fraction of a second
forks.set_forkserver_preload(['pytest', 'idgi_repro.jobs', 'idgi_repro.papers.idgi'])


def rows(folder): return {f.name: pd.read_parquet(f) for f in sorted(folder.glob('mini*.parquet'))}


def same(a, b):
    "Bit-identical rows in files of the same names."
    assert a.keys() == b.keys()
    for name in a: pd.testing.assert_frame_equal(a[name], b[name], check_exact=True)


def leftovers(folder): return sorted(p.name for p in folder.rglob('.*'))


# processes

def child(job, *args):
    "A process that does `job`, has begun when this returns, and says why where it fails."
    mine, its = forks.Pipe(duplex=False)
    p = forks.Process(target=_begin, args=(its, job, *args))
    p.start()
    its.close()
    assert mine.recv() == 'begun'
    return p


def _begin(pipe, job, *args):
    torch.set_num_threads(1)
    pipe.send('begun')
    job(*args)


def _study(folder):
    for s in SHARDS: run(replace(s, out=str(folder)), PAPER)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The results of a run that nothing happened to, and the seconds it took."
    folder = tmp_path_factory.mktemp('undisturbed')
    p, began = child(_study, folder), time.perf_counter()
    p.join()
    assert p.exitcode == 0 and len(rows(folder)) == len(SHARDS)
    return rows(folder), time.perf_counter() - began


def test_killed_at_random_moments_and_resumed(undisturbed, tmp_path):
    "Ten times; where a run has come to its end, half of its results are taken away and it goes on."
    expected, seconds = undisturbed
    rng, kills = random.Random(5), 0
    while kills < 10:
        before = set(rows(tmp_path))
        p = child(_study, tmp_path)
        p.join(rng.uniform(0, 1.5*seconds/len(SHARDS)))
        if p.exitcode is None: os.kill(p.pid, signal.SIGKILL)
        p.join()
        assert p.exitcode in (0, -signal.SIGKILL)
        kills += p.exitcode != 0
        now = rows(tmp_path)                                # every file that is there can be read
        assert before <= set(now), 'what stands is never lost'
        assert len(leftovers(tmp_path)) <= 2, 'what killed runs leave does not pile up'
        if len(now) == len(SHARDS):
            for f in rng.sample(sorted(now), len(now)//2): (tmp_path/f).unlink()
    p = child(_study, tmp_path)
    p.join()
    assert p.exitcode == 0
    same(rows(tmp_path), expected)
    assert not leftovers(tmp_path) and len(list(tmp_path.glob('select-*'))) == 1
    assert len(read(tmp_path)[0]) == sum(map(len, expected.values()))


def _write_and_die(folder, line):
    "Writes the second version of a file and dies at one line of the code that writes, or in the middle of the file's bytes."
    seen, code = 0, {f.__code__ for f in (files._claim, files._sweep, files.whole.__wrapped__, room._written)}
    def at_line(frame, event, _):
        nonlocal seen
        if frame.f_code not in code and frame.f_code.co_name not in ('write_bytes', 'write_text', 'copyfile', 'copyfileobj'): return
        if event == 'line':
            seen += 1
            if seen == line: os.kill(os.getpid(), signal.SIGKILL)
        return at_line
    if line == 0:
        def half(table, part, **options):
            pq.write_table(table, part)
            part.write_bytes(part.read_bytes()[:600])
            os.kill(os.getpid(), signal.SIGKILL)
        room.pq = SimpleNamespace(write_table=half)
    else: sys.settrace(at_line)
    write([dict(version=2)], dict(version=2), folder/'shard.parquet')


def test_killed_at_every_line_that_writes(tmp_path):
    "The old file or the new one is there, never anything between; what is left goes with the next write."
    write([dict(version=1)], dict(version=1), tmp_path/'shard.parquet')
    line, left, versions = 0, 0, []
    while True:
        p = child(_write_and_die, tmp_path, line)
        p.join()
        assert stands(tmp_path/'shard.parquet', False)
        assert [f.name for f in tmp_path.glob('*') if f.name[0] != '.'] == ['shard.parquet']
        assert len(leftovers(tmp_path)) <= 1, 'each run removes what the one before it left'
        versions.append(int(pd.read_parquet(tmp_path/'shard.parquet').version[0]))
        left += bool(leftovers(tmp_path))
        if p.exitcode == 0: break
        assert p.exitcode == -signal.SIGKILL
        line += 1
    assert line >= 15 and left >= 5 and not leftovers(tmp_path)
    assert versions[:5] == [1]*5 and versions == sorted(versions) and versions[-1] == 2


def test_two_runs_on_one_folder(undisturbed, tmp_path):
    two = [child(_study, tmp_path) for _ in range(2)]
    for p in two: p.join()
    assert [p.exitcode for p in two] == [0, 0]
    same(rows(tmp_path), undisturbed[0])
    assert not leftovers(tmp_path)


def test_what_another_run_is_writing_is_left_alone(tmp_path):
    with whole(tmp_path/'a.txt') as slow:
        slow.write_text('slow')
        (tmp_path/'.a.dead.tmp.txt').write_text('of a killed run')
        with whole(tmp_path/'a.txt') as fast: fast.write_text('fast')
        assert leftovers(tmp_path) == [slow.name] and (tmp_path/'a.txt').read_text() == 'fast'
    assert (tmp_path/'a.txt').read_text() == 'slow' and not leftovers(tmp_path)


def test_other_files_temporaries_are_not_touched(tmp_path):
    others = [tmp_path/n for n in ('.b.dead.tmp.txt', '.a.dead.tmp.csv', '.a.txt', 'a.dead.tmp.txt', '.ab.dead.tmp.txt')]
    for f in others: f.write_text('')
    with whole(tmp_path/'a.txt') as part: part.write_text('a')
    assert all(f.exists() for f in others)


def test_a_kernel_that_is_killed(tmp_path, monkeypatch):
    "As by the system, where memory does not suffice. The notebook takes no parameters."
    source = json.loads(jobs.notebook('shard').read_text())
    for c in source['cells'][2:]:
        if c['cell_type'] == 'code': c['source'] = 'import os, signal; os.kill(os.getpid(), signal.SIGKILL)'
    (tmp_path/'kill.ipynb').write_text(json.dumps(source))
    monkeypatch.setattr(jobs, 'notebook', lambda name: tmp_path/'kill.ipynb')
    said = r'killed \(signal 9\), as the system does where memory does not suffice.*the same command continues'
    with pytest.raises(InputError, match=said): jobs.execute('shard', tmp_path/'out'/'x.ipynb', {})


# damaged files

@pytest.fixture(scope='module')
def shard_and_rows(tmp_path_factory):
    shard = Shard(**TINY, stop=2, images=2)
    return shard, pd.read_parquet(run(replace(shard, out=str(tmp_path_factory.mktemp('whole'))), PAPER))


DAMAGE = dict(empty=lambda b: b'', cut=lambda b: b[:len(b)//2], no_end=lambda b: b[:-1], text=lambda b: b'<html>',
              zeros=lambda b: bytes(len(b)), no_footer=lambda b: b[:-300] + bytes(292) + b[-8:])


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_result_is_computed_again(damage, shard_and_rows, tmp_path):
    (shard, good), net = shard_and_rows, load(TINY['network'])
    chosen, _ = choose(net, open_images(shard.data), shard.images, shard.seed)
    file = tmp_path/shard_file(shard.of(PAPER), PAPER, net.fingerprint(), chosen)
    write(good.to_dict('records'), dict(), file)
    assert stands(file, False)
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.raises(InputError, match='damaged.*delete it and run the study again'): read(tmp_path)
    with pytest.warns(UserWarning, match=f'{file.name} is damaged .*computed again'): again = run(replace(shard, out=str(tmp_path)), PAPER)
    assert again == file
    pd.testing.assert_frame_equal(pd.read_parquet(file), good, check_exact=True)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        assert stands(file, False)


def test_one_flipped_bit_is_noticed_where_rows_are_read(shard_and_rows, tmp_path):
    file = tmp_path/'a.parquet'
    write(shard_and_rows[1].to_dict('records'), dict(), file)
    at = pq.read_metadata(file).row_group(0).column(5).data_page_offset + 60
    content = bytearray(file.read_bytes())
    content[at] ^= 1
    file.write_bytes(content)
    assert stands(file, False)                      # it ends as it should, and that is all the study looks at
    with pytest.raises(InputError, match='a.parquet is damaged.*delete it and run the study again'): read(tmp_path)


def test_parquet_that_is_no_result_does_not_stand(tmp_path):
    pd.DataFrame(dict(a=[1])).to_parquet(tmp_path/'a.parquet')
    with pytest.warns(UserWarning, match='a.parquet is damaged'): assert not stands(tmp_path/'a.parquet', False)


def test_damaged_maps_are_computed_again(tmp_path):
    how = dict(stop=1, images=1, keep_maps=True)
    file = computed(tmp_path, **how)
    before = read_maps(maps_file(file))
    maps_file(file).write_bytes(maps_file(file).read_bytes()[:9000])
    assert stands(file, False)
    with pytest.warns(UserWarning, match='maps-.* is damaged'): computed(tmp_path, **how)
    after = read_maps(maps_file(file))
    assert after[0].equals(before[0]) and torch.equal(after[1], before[1])


@pytest.mark.parametrize('damage', DAMAGE)
def test_a_damaged_selection_is_made_again(damage, tmp_path):
    net, data = load('mini_mobilenet'), open_images('embedded:12')
    table = select(net, data, cache=tmp_path)
    file, = tmp_path.iterdir()
    file.write_bytes(DAMAGE[damage](file.read_bytes()))
    with pytest.warns(UserWarning, match='damaged .*judged again'): again = select(net, data, cache=tmp_path)
    pd.testing.assert_frame_equal(again, table)
    pd.testing.assert_frame_equal(pd.read_parquet(file), table)


@pytest.mark.parametrize('bad', ['cut', 'empty', 'text', 'zeros'])
def test_a_damaged_image_costs_itself_alone(bad, tmp_path):
    "The rows of the others are, bit for bit, those of a run without it."
    photos = tmp_path/'photos'
    photos.mkdir()
    for i, item in enumerate(Embedded(4)): item.open().save(photos/f'{i}.png')
    (photos/'2.png').write_bytes(DAMAGE[bad]((photos/'2.png').read_bytes()))
    how = dict(data=str(photos), stop=4, images=4)
    file = computed(tmp_path/'with', **how)
    (name, why), = json.loads(pq.read_schema(file).metadata[b'idgi_repro'])['skipped']
    assert name == '2.png' and '2.png cannot be read as an image' in why
    (photos/'2.png').unlink()
    alone = computed(tmp_path/'without', **how)
    pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(alone), check_exact=True)
    assert pd.read_parquet(file).name.nunique() == 3


def test_names_that_are_no_text(tmp_path):
    "Linux lets a file be called anything; rows and reasons must still be written."
    photos = tmp_path/'photos'
    photos.mkdir()
    Embedded(1)[0].open().save(photos/'good.png')
    try: (good := photos/os.fsdecode(b'b\xff.png')).write_bytes((photos/'good.png').read_bytes())
    except OSError: pytest.skip('this file system takes only text')
    (photos/os.fsdecode(b'bad\xfe.png')).write_text('not an image')
    file = computed(tmp_path/'out', data=str(photos), stop=3, images=3)
    assert set(pd.read_parquet(file).name) == {'good.png', r'b\udcff.png'} and good.exists()
    assert json.loads(pq.read_schema(file).metadata[b'idgi_repro'])['skipped'][0][0] == r'bad\udcfe.png'


# the disk

@contextmanager
def little_room():
    "Files of this process, its log too, cannot grow beyond 2000 bytes: a write fails in its middle, as on a full disk, whoever we are."
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2000, hard))
    try: yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)


def big(n=20_000): return [dict(x=float(v)) for v in np.random.default_rng(0).random(n)]


def test_a_write_that_fails_in_its_middle_leaves_what_stood(tmp_path):
    file = tmp_path/'a.parquet'
    write([dict(x=1.)], dict(), file)
    before = file.read_bytes()
    with little_room(), pytest.raises(InputError, match='cannot write .*a.parquet.*make room there'): write(big(), dict(), file)
    assert file.read_bytes() == before and [f.name for f in tmp_path.iterdir()] == ['a.parquet']


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
@pytest.mark.parametrize('which', ['rows', 'maps', 'selection'])
def test_a_full_disk(which, tmp_path, monkeypatch):
    "What was there stays, nothing partial is left, and with room again the run goes on."
    how = dict(stop=1, images=1, keep_maps=True)
    other = computed(tmp_path, **how, seed=1)
    if which == 'selection': next(tmp_path.glob('select-*')).unlink()
    before = {f: f.read_bytes() for f in tmp_path.iterdir()}
    prefix = dict(rows='.mini', maps='.maps', selection='.select')[which]
    real = files._claim
    def full(file):
        part, f = real(file)
        if part.name.startswith(prefix):
            part.unlink()
            part.symlink_to('/dev/full')
        return part, f
    with monkeypatch.context() as m:
        m.setattr(files, '_claim', full)
        with pytest.raises(InputError, match=f'cannot write {tmp_path}/{prefix[1:]}.*No space left.*make room'): computed(tmp_path, **how)
    assert {f: f.read_bytes() for f in before} == before and not leftovers(tmp_path)
    assert not [f for f in set(tmp_path.iterdir()) - set(before) if f.name.startswith(prefix[1:])]
    assert stands(computed(tmp_path, **how), True) and other.read_bytes() == before[other]


@pytest.mark.skipif(not os.path.exists('/dev/full'), reason='no /dev/full')
def test_a_full_disk_is_found_before_the_work(tmp_path, monkeypatch):
    monkeypatch.setattr(files.tempfile, 'TemporaryFile', lambda **_: open('/dev/full', 'wb'))
    monkeypatch.setattr(room, 'load', lambda *_, **__: pytest.fail('the network was loaded'))
    with pytest.raises(InputError, match='cannot be written to.*No space left.*make room'): computed(tmp_path, stop=1, images=1)


@pytest.mark.parametrize('place', ['/proc', '/proc/results', '/dev/null'])
def test_a_place_in_which_nobody_can_write(place):
    "Not even root, whom permissions do not stop."
    if not os.path.exists('/proc/self'): pytest.skip('not Linux')
    with pytest.raises(InputError, match=f"results folder '{place}' cannot be"): results_folder(place)


def test_a_read_only_folder(tmp_path, monkeypatch):
    "Permissions for users, an error of the file system for root."
    tmp_path.chmod(0o500)
    if os.geteuid() == 0:
        real = os.open
        def read_only(path, flags, *args, **kw):
            if not flags & (os.O_WRONLY | os.O_RDWR) or not str(path).startswith(str(tmp_path)): return real(path, flags, *args, **kw)
            raise OSError(errno.EROFS, os.strerror(errno.EROFS), str(path))
        monkeypatch.setattr(os, 'open', read_only)
    said = f'{tmp_path}. cannot be written to.*(Read-only|denied).*give another'
    with pytest.raises(InputError, match=said): computed(tmp_path, stop=1, images=1)
    tmp_path.chmod(0o700)
    assert not list(tmp_path.iterdir())


# memory

class Greedy(nn.Module):
    "A network that has memory for no more than `limit` images."
    def __init__(self, net, limit, error): super().__init__(); self.net, self.limit, self.error, self.seen = net, limit, error, []
    def forward(self, x):
        self.seen.append(len(x))
        if len(x) > self.limit: raise self.error
        return self.net(x)


LACK = [torch.OutOfMemoryError('CUDA out of memory'), MemoryError(), RuntimeError('cuDNN error: CUDNN_STATUS_ALLOC_FAILED'),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes.")]


def greedy(monkeypatch, limit, error):
    net = load('mini_mobilenet')
    module = Greedy(net.module, limit, error)
    monkeypatch.setattr(room, 'load', lambda *_, **__: replace(net, module=module))
    return module


@pytest.mark.parametrize('error', LACK, ids=lambda e: type(e).__name__)
def test_where_memory_does_not_suffice_batches_are_halved(error, tmp_path, monkeypatch):
    how = dict(stop=3, images=3, exact=True)
    expected = pd.read_parquet(computed(tmp_path/'a', **how))
    module = greedy(monkeypatch, 3, error)
    found = pd.read_parquet(computed(tmp_path/'b', **how))
    tried = [n for n in module.seen if n > 3]
    assert max(module.seen) > 3 and len(tried) <= 4, 'once found out, the limit is kept'
    assert list(found) == list(expected) and (found.name == expected.name).all()
    numbers = expected.select_dtypes('number').columns
    np.testing.assert_allclose(found[numbers], expected[numbers], rtol=0, atol=5e-3)
    close = ['prob', 'delta', 'insertion']
    np.testing.assert_allclose(found[close], expected[close], rtol=0, atol=1e-4)


@pytest.mark.parametrize('error', LACK, ids=lambda e: type(e).__name__)
def test_where_not_even_one_image_fits(error, tmp_path, monkeypatch):
    greedy(monkeypatch, 0, error)
    said = 'memory does not suffice for a single image; use smaller images'
    with pytest.raises(InputError, match=said): computed(tmp_path, stop=1, images=1)
    assert not list(tmp_path.iterdir())


def test_memory_that_lacks_beside_the_network(tmp_path, monkeypatch):
    def views(*_): raise MemoryError
    monkeypatch.setattr(room, 'views', views)
    with pytest.raises(InputError, match='memory does not suffice; give a smaller batch size'): computed(tmp_path, stop=1, images=1)
    assert not list(tmp_path.glob('mini*'))


def test_an_image_is_not_damaged_where_memory_lacks(tmp_path, monkeypatch):
    "Else it would silently be left out, in the selection that is kept as well."
    Embedded(1)[0].open().save(tmp_path/'a.png')
    def decode(*_): raise MemoryError
    monkeypatch.setattr(images_room, 'decode', decode)
    with pytest.raises(MemoryError): Photo(tmp_path/'a.png').open()
    with pytest.raises(InputError, match='memory does not suffice'): computed(tmp_path/'out', data=str(tmp_path), stop=1, images=1)
    assert not list((tmp_path/'out').iterdir())


# the network

class Hole(nn.Module):
    "NaN on the path from black to one image, though not at its ends."
    def __init__(self, net, black, image):
        super().__init__()
        self.net, self.black, self.way = net, black, image - black
    def forward(self, x):
        d, w = (x - self.black).flatten(1), self.way.flatten()
        share = d@w/(w@w)
        on_path = ((d - share[:, None]*w).norm(dim=1) < 1e-3*w.norm()) & (share > .1) & (share < .9)
        return torch.where(on_path[:, None], torch.nan, self.net(x))


def test_an_image_on_whose_path_the_network_is_nan(tmp_path, monkeypatch):
    "It is left out and named; the rows of the others are, bit for bit, those of a run without it."
    net, how = load('mini_mobilenet'), dict(methods=('blurig+idgi', *IG), stop=4, images=4)
    chosen, unread = choose(net, data := open_images(TINY['data']), 4)
    victim = chosen.iloc[1]
    pixels = load_batch(net, [data[int(victim['index'])]]).pixels
    subject = Subject(net, pixels, torch.tensor([0]))
    module = Hole(net.module, subject.black[0], subject.x[0])
    monkeypatch.setattr(room, 'load', lambda *_, **__: replace(net, module=module))
    file = computed(tmp_path/'with', **how)
    monkeypatch.setattr(room, 'choose', lambda *_: (chosen[chosen.name != victim['name']], unread))
    alone = computed(tmp_path/'without', **how)
    pd.testing.assert_frame_equal(pd.read_parquet(file), pd.read_parquet(alone), check_exact=True)
    failed = lambda file: json.loads(pq.read_schema(file).metadata[b'idgi_repro'])['failed']
    assert failed(file) == [[victim['name'], 'the network returned NaN or infinity on its path']]
    assert pd.read_parquet(alone).name.nunique() == 3 and failed(alone) == []


# the clock

def test_a_clock_that_jumps(tmp_path, monkeypatch, shard_and_rows):
    "Back by a year at every look: neither the rows nor the seconds notice."
    shard, good = shard_and_rows
    now = iter(range(10**10, 0, -31_536_000))
    monkeypatch.setattr(time, 'time', lambda: float(next(now)))
    file = run(replace(shard, out=str(tmp_path)), PAPER)
    pd.testing.assert_frame_equal(pd.read_parquet(file), good, check_exact=True)
    assert 0 < json.loads(pq.read_schema(file).metadata[b'idgi_repro'])['seconds'] < 600


def test_files_from_the_future_stand(tmp_path, shard_and_rows):
    shard = replace(shard_and_rows[0], out=str(tmp_path))
    file = run(shard, PAPER)
    for f in tmp_path.iterdir(): os.utime(f, (2**32, 2**32))
    before = file.stat().st_mtime_ns, file.stat().st_ino
    assert run(shard, PAPER) == file and (file.stat().st_mtime_ns, file.stat().st_ino) == before

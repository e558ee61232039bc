"Reading, statistics and intervals of results whose truth is known, and every way in which results can be incomplete or wrong."
import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np, pandas as pd, pyarrow as pa, pyarrow.parquet as pq, pytest
from scipy.stats import norm, t

from idgi_repro.errors import InputError
from idgi_repro.report.results import KEY, read
from idgi_repro.report.statistics import _medians, draws, interval, mean, mean_size, median_area, pairs, present, resamples, values
from simulate import CURVES, METHODS, curves, simulate

SAMPLE = Path(__file__).resolve().parents[1]/'figures'/'sample'/'rows'
LISTS = [f'{c}_curve' for c in CURVES]
SIC = SimpleNamespace(name='sic_entropy', column='sic_entropy_curve', statistic=median_area)
INSERTION = SimpleNamespace(name='insertion', column='', statistic=mean)


def wider(drawn, middle, images):
    "A bootstrap's interval as wide as Student's."
    factor = (images/(images - 1))**.5*t.ppf(.975, images - 1)/norm.ppf(.975)
    return middle + factor*(drawn - middle)

def made(folder, **kw):
    "Rows of made-up results: one network, the corrected protocol, two step counts, unless told otherwise."
    simulate(folder, **dict(networks=('made_up_a',), protocols=('corrected',), steps=(8, 16)) | kw)
    return read(folder)[0]


@pytest.fixture
def results(tmp_path):
    "Two networks with both protocols; the second lacks Guided IG, and the larger number of steps with the published protocol."
    folder, few = tmp_path/'results', ('ig', 'ig+idgi', 'blurig', 'blurig+idgi')
    simulate(folder, networks=('made_up_a',), images=30, steps=(8, 16))
    for protocol, steps in (('corrected', (8, 16)), ('published', (8,))):
        simulate(folder/'deeper', networks=('made_up_b',), protocols=(protocol,), images=30, steps=steps, methods=few)
    return folder


def rewritten(file, schema=lambda s: s, **about):
    "The file with entries of its manifest replaced, and its columns' types."
    t = pq.read_table(file)
    manifest = {k: v for k, v in (json.loads(t.schema.metadata[b'idgi_repro']) | about).items() if v is not None}
    pq.write_table(t.cast(schema(t.schema)).replace_schema_metadata({b'idgi_repro': json.dumps(manifest).encode()}), file)


# made-up results

def test_made_up_curves_have_the_areas_they_are_made_for():
    assert np.allclose(np.trapezoid(curves(np.array([.3, .5, .8])), dx=.01), [.3, .5, .8], atol=.005)


def test_made_up_results_are_shaped_like_those_of_a_study(tmp_path):
    rows, sample = made(tmp_path), read(SAMPLE)[0]
    assert rows.dtypes.to_dict() == sample.dtypes.to_dict()
    assert {*rows.method} == {*METHODS} == {*sample.method} and {*rows.network} == {'made_up_a'} and {*rows['data']} == {'made-up'}
    for c in LISTS: assert {(v.shape, v.dtype.name) for f in (rows, sample) for v in f[c].dropna()} == {((101,), 'float32')}


# reading

def test_the_sample_is_all_there():
    rows, manifests = read(SAMPLE, notes := [])
    assert len(rows) == 3*48*6*5*2 and len(manifests) == 72 and not rows.duplicated(KEY).any() and not notes
    assert {m['shard']['paper'] for m in manifests} == {'idgi'} and len({(m['code'], m['torch'], m['device']) for m in manifests}) == 1


def test_the_controls_are_all_there():
    rows, manifests = read(SAMPLE.parents[1]/'controls'/'rows', notes := [])
    assert len(rows) == 3*48*(34 + 33) and len(manifests) == 36 and not rows.duplicated(KEY).any() and not notes # one is corrected only
    assert len({(m['shard']['protocol'], m['code'], m['torch'], m['device']) for m in manifests}) == 2           # a code for each's methods


def test_what_is_not_a_result_is_passed_over(results):
    for name in ('select-net-123.parquet', '.part.parquet', 'a.parquet.tmp', 'notes.txt'): (results/name).write_text('no parquet')
    rows, manifests = read(results)
    assert len(rows) == 2*30*3*2*2 + 30*2*2*(2 + 1) and len(manifests) == 4


def test_a_corrupt_file_is_named_with_its_remedy(results):
    file = results/'made_up_a-corrected.parquet'
    whole = file.read_bytes()
    for content in (b'', b'not parquet at all', whole[:len(whole)//2], whole[:-400] + b'\0'*300 + whole[-100:]):
        file.write_bytes(content)
        with pytest.raises(InputError, match=r'made_up_a-corrected\.parquet.*delete it and run the study again'): read(results)


def test_a_foreign_parquet_file_is_named(results):
    pd.DataFrame({'a': [1]}).to_parquet(results/'foreign.parquet')
    with pytest.raises(InputError, match='foreign.parquet'): read(results)


def test_nothing_to_report(tmp_path):
    with pytest.raises(InputError, match='there is no results folder'): read(tmp_path/'nowhere')
    with pytest.raises(InputError, match='holds no results'): read(tmp_path)


def test_a_shard_whose_end_is_whole_and_whose_middle_is_not(results):
    file = results/'made_up_a-corrected.parquet'
    pq.write_table(pq.read_table(file), file, compression='none', use_dictionary=False, write_page_checksum=True)
    content, notes = bytearray(file.read_bytes()), []
    at = pq.read_metadata(file).row_group(0).column(10).data_page_offset + 400
    content[at] ^= 1                                            # one bit of one number
    file.write_bytes(content)
    with pytest.raises(InputError, match=r'made_up_a-corrected\.parquet is damaged.*checksum'): read(results)
    rows, manifests = read(results, notes)
    assert len(manifests) == 3 and {*rows[rows.network == 'made_up_a'].protocol} == {'published'}
    assert len(notes) == 1 and 'made_up_a-corrected' in notes[0]


def test_damaged_files_are_left_out_for_who_takes_notes(results):
    whole = read(results)[0]
    for name, content in (('a', b''), ('deeper/z', b'PAR1 and no more')): (results/f'{name}.parquet').write_bytes(content)
    pd.DataFrame({'a': [1]}).to_parquet(results/'foreign.parquet')
    with pytest.raises(InputError) as e: read(results)
    notes = []
    assert read(results, notes)[0].equals(whole) and len(notes) == 3
    for n, name in zip(notes, ('a', 'deeper/z', 'foreign')):
        assert n.startswith('Left out: ') and f'{name}.parquet is damaged' in n and name in str(e.value)
    for file in results.rglob('*.parquet'): file.write_bytes(b'')
    with pytest.raises(InputError, match='run the study again'): read(results, [])


def of_before(file, to):
    "The file as a version before 0.2 would have written it."
    t = pq.read_table(file)
    manifest = json.loads(t.schema.metadata[b'idgi_repro'])
    manifest['shard']['grid'] = dict(corrected='closed', published='study')[manifest['shard'].pop('protocol')]
    frame = t.to_pandas()
    frame['rule'] = np.where(frame.method.str.endswith('+idgi'), 'idgi', 'riemann')
    frame['method'] = frame.method.str.removesuffix('+idgi')
    frame['grid'] = frame.pop('protocol').map(dict(corrected='closed', published='study'))
    old = pa.Table.from_pandas(frame, preserve_index=False)
    pq.write_table(old.replace_schema_metadata({b'idgi_repro': json.dumps(manifest | dict(version='0.1.0')).encode()}), to)


def test_results_of_a_version_before_are_refused_in_the_new_words(results):
    whole = read(results)[0]
    for n in ('p', 'q'): of_before(results/'made_up_a-corrected.parquet', results/f'{n}-closed.parquet')
    words = (r'p-closed\.parquet and 1 more.*before 0\.2.*protocol.*corrected.*closed.*published.*study.*method.*ig\+idgi.*rule.*'
             r'run the study again with this version')
    with pytest.raises(InputError, match=words) as e: read(results)
    assert 'damaged' not in str(e.value)
    rows, _ = read(results, notes := [])
    (note,) = notes
    assert rows.equals(whole) and note.startswith('Left out: ')
    for f in results.rglob('made_up*.parquet'): f.unlink()
    with pytest.raises(InputError, match=words): read(results, [])


@pytest.mark.parametrize('about', [dict(version='0.10.0'), dict(code='abc'), dict(weights='others'), dict(torch='2.12'),
                                   dict(pillow='11.3'), dict(version=None)])
def test_rows_that_were_made_differently_never_mix_unnoticed(tmp_path, about):
    simulate(tmp_path/'a', networks=('made_up_a', 'made_up_b'), version='0.9.0')
    simulate(tmp_path/'b', networks=('made_up_a',), protocols=('corrected',), steps=(16, 64), seed=1, version='0.9.0')
    read(tmp_path, notes := [])
    assert not notes
    rewritten(tmp_path/'b'/'made_up_a-corrected.parquet', **about)
    rows, manifests = read(tmp_path, notes)
    (note,) = notes
    assert 'made_up_a on made-up, corrected protocol' in note and 'made_up_b' not in note and 'published protocol' not in note
    assert (f'{[*about][0]} {[*about.values()][0]} (1 file)' in note or None in about.values()) and len(manifests) == 5
    with pytest.warns(UserWarning, match='are mixed'): assert read(tmp_path)[0].equals(rows)
    assert len(rows) == (2*2*3 + 1)*40*3*2


def test_the_code_of_other_methods_mixes_nothing(tmp_path):
    for n, methods in (('a', ('ig', 'ig+idgi')), ('b', ('gig', 'gig+idgi'))):
        simulate(tmp_path/n, networks=('made_up_a',), protocols=('corrected',), methods=methods)
        rewritten(tmp_path/n/'made_up_a-corrected.parquet', code=n)
    read(tmp_path, notes := [])
    assert not notes


def test_of_equally_full_rows_those_of_the_newest_version_count(tmp_path):
    for folder, seed, version in (('a', 1, '0.9.0'), ('b', 2, '0.10.0'), ('c', 3, '0.2.0')):
        simulate(tmp_path/folder, networks=('made_up_a',), protocols=('corrected',), seed=seed, version=version)
    rows, manifests = read(tmp_path, notes := [])
    assert rows.equals(read(tmp_path/'b')[0]) and [m['version'] for m in manifests] == ['0.10.0'] and not notes


def test_older_rows_count_until_newer_ones_cover_them(tmp_path):
    one = dict(networks=('made_up_b',), protocols=('published',), version='0.3.0')
    simulate(tmp_path)
    rows = read(tmp_path)[0]
    simulate(tmp_path/'again', images=30, **one)                # 30 of the 40 images
    assert len(read(tmp_path, notes := [])[0]) == len(rows) and len(notes) == 1
    simulate(tmp_path/'again', images=40, **one)                # and all of them: the older file counts for nothing
    assert len(read(tmp_path, notes := [])[1]) == 4 and not notes


def test_types_that_differ_between_shards(tmp_path):
    "A shard without curves has no type for them, and texts have one of two."
    simulate(tmp_path, networks=('made_up_a',), shards=4)
    whole, files = read(tmp_path)[0], sorted(tmp_path.glob('*.parquet'))
    bare = pq.read_table(files[0])
    for c in LISTS: bare = bare.set_column(bare.column_names.index(c), c, pa.nulls(len(bare)))
    pq.write_table(bare, files[0])
    rewritten(files[1], lambda s: pa.schema([f.with_type(pa.string()) if pa.types.is_large_string(f.type) else f for f in s]))
    rows = read(tmp_path)[0]
    gone = whole['name'].isin(bare['name'].to_pylist()) & (whole.protocol == 'corrected')
    assert rows.drop(columns=LISTS).equals(whole.drop(columns=LISTS))
    for c in LISTS:
        assert rows[c].isna().equals(gone | whole[c].isna())
        assert rows[c][~gone].reset_index(drop=True).equals(whole[c][~gone].reset_index(drop=True))


def test_many_shards_are_opened_once_and_say_the_same(tmp_path, monkeypatch):
    "Against pandas, a file and a group at a time."
    simulate(tmp_path, images=278, shards=50)
    opened, plain = [], pq.ParquetFile
    monkeypatch.setattr(pq, 'ParquetFile', lambda file, **k: opened.append(file) or plain(file, **k))
    rows, manifests = read(tmp_path)
    files = sorted(tmp_path.glob('*.parquet'))
    assert sorted(opened) == files and len(files) == len(manifests) == 200 and len(rows) == 2*2*278*3*2*3
    naive = pd.concat([pq.ParquetFile(f).read().to_pandas() for f in files]).sort_values(KEY, ignore_index=True)
    assert [c for c in naive if c.endswith('_curve')] == LISTS
    assert rows.drop(columns=LISTS).equals(naive.drop(columns=LISTS))
    for c in LISTS: assert all(a is b is None or np.array_equal(a, b) for a, b in zip(rows[c], naive[c]))
    here = rows[(rows.network == 'made_up_b') & (rows.steps == 32)]
    for (protocol, method), g in naive[(naive.network == 'made_up_b') & (naive.steps == 32)].groupby(['protocol', 'method']):
        curve = np.median(np.stack(g.sic_entropy_curve.dropna()).astype(float), 0)
        v = values(here[(here.protocol == protocol) & (here.method == method)], SIC)
        assert median_area(v[present(v)]) == np.trapezoid(curve, dx=.01)
    a, b = pairs(here[here.protocol == 'corrected'], 'method', 'gig', 'gig+idgi')
    for m in (INSERTION, SIC):
        x, y = (values(f, m)[present(values(f, m))] for f in (a, b))
        drawn = [np.repeat(np.arange(len(x)), c) for c in draws(len(x), resamples(*x.shape)).T]
        brute = np.quantile([m.statistic(y[d]) - m.statistic(x[d]) for d in drawn], [.025, .975])
        wide = wider(brute, m.statistic(y) - m.statistic(x), len(x))
        assert np.allclose(interval(values(b, m), m.statistic, values(a, m)), wide, atol=1e-12, rtol=0)


@pytest.mark.parametrize('poorer', ['a', 'z'])
def test_of_two_rows_about_the_same_the_fuller_one_counts(tmp_path, poorer):
    simulate(tmp_path/poorer, networks=('made_up_a',), protocols=('corrected',), without=('stability',))
    simulate(tmp_path/'m', networks=('made_up_a',), protocols=('corrected',))
    rows, _ = read(tmp_path)
    assert len(rows) == 40*3*2*3 and rows.stability.notna().all()


def test_duplicates_are_dropped_in_the_order_of_the_files(results):
    rows, _ = read(results)
    simulate(results/'z', networks=('made_up_a',), images=30, steps=(8, 16), seed=1)
    assert read(results)[0].equals(rows)


def test_a_column_that_only_some_shards_have(tmp_path):
    made(tmp_path, without=[*LISTS, 'stability', 'excluded'])
    rows = made(tmp_path, networks=('made_up_b',))
    poor, full = (rows[rows.network == n] for n in ('made_up_a', 'made_up_b'))
    assert not present(values(poor, SIC)).any() and not present(values(poor, 'stability')).any() and poor.excluded.isna().all()
    assert present(values(full, SIC)).sum() == 32*3*2*2 and present(values(full, 'stability')).all()
    assert present(values(rows, INSERTION)).all()


# statistics and intervals

@pytest.mark.parametrize('statistic, sample', [(np.mean, lambda rng: rng.normal(.5, 1, 40)),
                                               (median_area, lambda rng: np.linspace(0, 1, 101)**(1/rng.uniform(.3, .7, 40)[:, None] - 1))])
def test_the_interval_covers_the_truth_about_as_often_as_it_says(statistic, sample):
    rng = np.random.default_rng(1)
    kw = dict(statistic=median_area) if statistic is median_area else {}
    covered = [low <= .5 <= high for low, high in (interval(sample(rng), seed=i, times=400, **kw) for i in range(200))]
    assert .88 <= np.mean(covered) <= .99


def test_the_interval_of_sic_holds_the_median_of_the_areas():
    areas = np.random.default_rng(1).uniform(.3, .7, 41)
    low, high = interval(curves(areas), median_area)
    assert low < np.median(areas) < high


def test_the_paired_interval_of_sic_is_that_of_resampled_images():
    rng = np.random.default_rng(2)
    a, b = (np.sort(rng.random((9, 101)), 1) for _ in range(2))
    a[2], b[5] = np.nan, np.nan                                 # two images are left out, one for each
    keep = [0, 1, 3, 4, 6, 7, 8]
    drawn = [np.repeat(keep, c) for c in draws(7, 300).T]
    brute = [np.trapezoid(np.median(b[d], 0) - np.median(a[d], 0), dx=.01) for d in drawn]
    wide = wider(np.quantile(brute, [.025, .975]), median_area(b[keep]) - median_area(a[keep]), 7)
    assert np.allclose(interval(b, median_area, a, times=300), wide)


@pytest.mark.parametrize('images, dtype', [(1, np.int16), (2, int), (41, np.int16), (400, int), (17_000, np.int16)])
def test_weighted_medians_are_those_of_repeated_curves_to_the_bit(images, dtype):
    "With ties, and with draws as no bootstrap makes them; beyond 2^14 images the counts need more than 16 bits."
    rng = np.random.default_rng(images)
    z = np.round(rng.random((images, 4)), 2)
    drawn = [np.bincount(rng.integers(images, size=images), minlength=images) for _ in range(20)]
    counts = np.stack([*drawn, np.arange(images) >= images - 10, np.arange(images) < 1, np.zeros(images)], 1).astype(dtype)
    slow = np.stack([np.median(np.repeat(z, c, 0), 0) if c.any() else np.full(4, np.nan) for c in counts.T], 1)
    assert np.array_equal(_medians(z, counts), slow, equal_nan=True)


def test_statistics_are_what_they_say(tmp_path):
    rows = made(tmp_path)
    here = rows[(rows.steps == 16) & (rows.method == 'ig')]
    assert mean(values(here, INSERTION)) == pytest.approx(here.insertion.mean())
    assert mean_size(values(here, 'delta')) == pytest.approx(here.delta.abs().mean())
    v, aic = values(here, SIC), values(here, 'aic_entropy')
    assert median_area(v[present(v)]) == pytest.approx(np.trapezoid(np.median(np.stack(here.sic_entropy_curve.dropna()), 0), dx=.01))
    assert mean(aic[present(aic)]) == pytest.approx(here.aic_entropy.mean())
    curve = np.stack(here.aic_entropy_curve.dropna()).mean(0)
    assert mean(aic[present(aic)]) == pytest.approx(np.trapezoid(curve, dx=.01), abs=1e-6) # the area under the mean curve


def test_numbers_that_are_not_finite_do_not_count(tmp_path):
    rows = made(tmp_path)
    rows.loc[rows['name'] == 'image-003', 'stability'] = np.inf
    assert np.isfinite(values(rows, 'stability')).sum() == len(rows)*39//40


@pytest.mark.parametrize('empty', [np.nan, None])
def test_columns_that_are_absent_or_empty_have_no_values(tmp_path, empty):
    rows = made(tmp_path)
    for poor in (rows.drop(columns=['insertion', *LISTS]), rows.assign(**dict.fromkeys(['insertion', *LISTS], empty))):
        for m in (INSERTION, SIC): assert len(values(poor, m)) == len(rows) and not present(values(poor, m)).any()


# comparisons

def test_pairing_uses_only_images_that_have_both(results):
    rows, _ = read(results)
    drop = (rows['name'] == 'image-003') & rows.method.str.endswith('+idgi')
    some = rows[~drop & (rows.steps == 8) & (rows.protocol == 'corrected')].sample(frac=1, random_state=0)
    found = [pairs(some, 'method', m, f'{m}+idgi') for m in ('ig', 'gig', 'blurig')]
    assert [len(a) for a, _ in found] == [29*2, 29, 29*2]
    for (a, b), m in zip(found, ('ig', 'gig', 'blurig')):
        assert 'image-003' not in {*a['name']} and {*a.method} == {m} and {*b.method} == {f'{m}+idgi'}
        for column in ('network', 'name', 'steps', 'protocol'): assert (a[column].to_numpy() == b[column].to_numpy()).all()


def test_protocols_are_paired_in_what_both_have(results):
    rows, _ = read(results)
    a, b = pairs(rows, 'protocol', 'corrected', 'published')
    assert len(a) == len(b) == 30*6*2 + 30*4 and {*a.protocol} == {'corrected'} and {*b.protocol} == {'published'}
    for column in ('network', 'name', 'method', 'steps'): assert (a[column].to_numpy() == b[column].to_numpy()).all()
    assert (b.insertion.to_numpy() - a.insertion.to_numpy())[a.method == 'ig'].mean() == pytest.approx(-.02, abs=.01)


def test_a_method_without_a_path_is_compared_with_every_number_of_steps(tmp_path):
    rows = made(tmp_path, pathless=('edges', 'random'))
    assert (rows[rows.method == 'edges'].steps == 0).all() and len(rows) == 40*(6*2 + 2)
    for base, other in (('edges', 'ig'), ('ig', 'edges')):
        a, b = pairs(rows, 'method', base, other)
        assert len(a) == 40*2 and {*a.method} == {base} and {*b.method} == {other} and (a['name'].to_numpy() == b['name'].to_numpy()).all()
        assert {*(a if base == 'ig' else b).steps} == {8, 16} and {*(b if base == 'ig' else a).steps} == {0}
    a, b = pairs(rows, 'method', 'edges', 'random')
    assert len(a) == 40 and (a['name'].to_numpy() == b['name'].to_numpy()).all()
    assert not len(pairs(rows, 'method', 'edges', 'nothing')[0])

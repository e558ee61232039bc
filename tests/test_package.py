"The door: what `import idgi_repro` offers, and that it costs nothing before it is used."
import json, re, subprocess, sys, tomllib
from pathlib import Path
from types import ModuleType

import pytest, yaml

import idgi_repro

ROOMS = {'method', 'study', 'report', 'papers', 'cli', 'jobs', 'errors', 'files', 'records'}
NAMES = set('''
    attribute saliency PathMethod IntegratedGradients GuidedIG BlurIG IDGI NotFinite probability logit contrast
    sigmoid output predict value_and_gradient prepare
    Path Curve Point StraightPath BlurPath GuidedPath ReferencePath AdversarialPath Mean ValidReferences
    ValidInterpolations IGUniform IGSG IGSQ ExpectedGradients AGI diffid trace_estimate score_matching
    anti_score_matching gradient_norm ascend perturbation fit Rule riemann idgi absolute squares along trapezoid trapezoid_idgi second_order
    insertion information_curves stability energy_inside pointing patchiness distance load Network
    Embedded InputError Method Metric Measurement Claim Paper'''.split())


def python(code):
    "What a fresh interpreter prints."
    root = Path(idgi_repro.__file__).parents[1]
    return subprocess.run([sys.executable, '-c', f'import sys; sys.path.insert(0, {str(root)!r}); {code}'], check=True, capture_output=True,
                          text=True).stdout.split()


@pytest.mark.parametrize('name', sorted(ROOMS | NAMES))
def test_every_public_name_is_there(name): assert isinstance(getattr(idgi_repro, name), ModuleType) == (name in ROOMS)

@pytest.mark.parametrize('name', sorted(NAMES))
def test_every_public_name_can_be_imported(name): exec(f'from idgi_repro import {name}', {})

def test_the_public_names_are_listed(): assert set(dir(idgi_repro)) == set(idgi_repro.__all__) == ROOMS | NAMES

def test_an_unknown_name_is_refused():
    with pytest.raises(AttributeError, match='nothing_of_this_name'): idgi_repro.nothing_of_this_name

def test_the_import_is_light():
    "It is timed nowhere: what takes time is what it imports."
    assert python('import idgi_repro; print(idgi_repro.__version__, *{"torch", "torchvision", "numpy", "pandas", "matplotlib"} & '
                  '{*sys.modules})') == [idgi_repro.__version__]

def test_a_name_brings_no_more_than_its_room():
    assert python('from idgi_repro import InputError; print(*{"torch", "numpy", "pandas"} & {*sys.modules})') == []

def test_a_rule_named_as_a_paper_stays_a_rule():
    "`idgi_repro.idgi` is the rule; the paper is `idgi_repro.papers.idgi`."
    assert python('import idgi_repro as ir, idgi_repro.method.rules; print(ir.idgi is idgi_repro.method.rules.idgi)') == ['True']

def test_every_room_is_in_the_wheel():
    root = Path(idgi_repro.__file__).parents[1]
    listed = tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['tool']['setuptools']['packages']
    assert {'.'.join(p.relative_to(root).parent.parts) for p in (root/'idgi_repro').rglob('__init__.py')} <= {*listed}

def test_every_file_of_the_package_is_in_the_wheel():
    "Weights and the page's template."
    root = Path(idgi_repro.__file__).parents[1]
    listed = tomllib.loads((root/'pyproject.toml').read_text('utf-8'))['tool']['setuptools']['package-data']
    there = {p for p in (root/'idgi_repro').rglob('*') if p.is_file() and p.suffix not in ('.py', '.pyc')}
    packed = {p for room, globs in listed.items() for g in globs for p in root.joinpath(*room.split('.')).glob(g)}
    assert len(there) > 3 and there <= packed

def test_the_version_is_one_everywhere():
    root = Path(idgi_repro.__file__).parents[1]
    said = [yaml.safe_load((root/'CITATION.cff').read_text('utf-8'))['version'],
            re.search(r'^version = (.*)$', (root/'settings.ini').read_text('utf-8'), re.MULTILINE)[1]]
    assert said == [idgi_repro.__version__]*2

# ---- how it is written

ROOT = Path(__file__).resolve().parents[1]
WRITTEN = sorted(p for folder in ('idgi_repro', 'nbs', 'tests', 'benchmarks', 'workflow') for p in (ROOT/folder).rglob('*')
                 if p.is_file() and p.suffix in ('.py', '.ipynb', '.yaml', '.html', '.css', '.js', '') and p.name != '_modidx.py'
                 and '.ipynb_checkpoints' not in p.parts)

def lines(file):
    "What is written in it, a notebook's outputs not; of a row of a table and of an address alone, which cannot be broken, nothing."
    if file.suffix != '.ipynb': return file.read_text('utf-8').splitlines()
    written = [line for c in json.loads(file.read_text('utf-8'))['cells'] for line in ''.join(c['source']).splitlines()]
    return [line for line in written if not line.startswith('| ') and not re.fullmatch(r'\[\w+\]\(\S+\),?', line)]

@pytest.mark.parametrize('file', [ROOT/'Makefile', *WRITTEN], ids=lambda p: p.relative_to(ROOT).as_posix())
def test_no_line_is_longer_than_140_characters(file):
    assert [line for line in lines(file) if len(line) > 140] == []

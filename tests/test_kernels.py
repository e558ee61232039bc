"Which kernel a notebook runs on, and what is said of one that dies."
import json, sys

import nbformat, pytest
from nbformat.v4 import new_code_cell, new_notebook

from idgi_repro import jobs
from idgi_repro.errors import InputError


@pytest.fixture
def runs(tmp_path, monkeypatch):
    "A function that executes a notebook of one cell and gives what it printed."
    monkeypatch.setattr(jobs, 'notebook', lambda name: tmp_path/'cell.ipynb')
    monkeypatch.setattr(jobs, 'check_parameters', lambda name, parameters: None)
    def run(code, **metadata):
        nbformat.write(new_notebook(cells=[new_code_cell(code)], metadata=metadata), tmp_path/'cell.ipynb')
        jobs.execute('shard', tmp_path/'out'/'cell.ipynb', {})
        return ''.join(o['text'] for o in nbformat.read(tmp_path/'out'/'cell.ipynb', 4).cells[-1].outputs)
    return run


def spec(*argv): return json.dumps(dict(argv=list(argv), display_name='another', language='python'))

INSTALLED = dict(another_python=spec('/usr/bin/python3', '-m', 'ipykernel_launcher', '-f', '{connection_file}'),
                 deleted=spec('/no/such/python3', '-m', 'ipykernel_launcher', '-f', '{connection_file}'),
                 ends_at_once=spec('/bin/false'), no_json='this is no specification', nothing=None)

@pytest.fixture
def install(tmp_path, monkeypatch):
    "A function that puts one of them under the name python3."
    def put(which):
        folder = tmp_path/'jupyter'/'kernels'/'python3'
        folder.mkdir(parents=True)
        if INSTALLED[which]: (folder/'kernel.json').write_text(INSTALLED[which])
        monkeypatch.setenv('JUPYTER_PATH', str(tmp_path/'jupyter'))
        monkeypatch.setenv('JUPYTER_DATA_DIR', str(tmp_path/'jupyter'))
    return put

@pytest.mark.parametrize('installed', INSTALLED)
def test_the_interpreter_that_is_asked_for(installed, install):
    "Whatever is installed under the name python3."
    install(installed)
    assert jobs._kernel().kernel_spec.argv[0] == sys.executable

@pytest.mark.parametrize('installed, name', [('deleted', 'my-environment'), ('nothing', 'python3')])
def test_the_interpreter_that_runs_the_command(installed, name, install, runs):
    "Whatever is installed, and whatever kernel the notebook asks for."
    install(installed)
    said = runs('import sys, idgi_repro; print(sys.executable)', kernelspec=dict(name=name, display_name=name, language='python'))
    assert said.strip() == sys.executable


DEATHS = [('os.kill(os.getpid(), signal.SIGKILL)', r'was killed \(signal 9\), as the system does where memory does not suffice', True),
          ('os._exit(137)', 'was killed .signal 9.', True),
          ('os.kill(os.getpid(), signal.SIGSEGV)', r'died of signal 11 \(SIGSEGV\), a fault in compiled code', False),
          ('os._exit(3)', 'ended by itself with status 3', False)]

@pytest.mark.parametrize('code, said, memory', DEATHS, ids=[code for code, *_ in DEATHS])
def test_how_a_kernel_died(code, said, memory, runs):
    "Memory is named only where it may have been the reason."
    with pytest.raises(InputError, match=said) as e: runs(f'import os, signal\n{code}')
    assert ('memory' in str(e.value)) == memory and 'cell.ipynb' in str(e.value)


@pytest.mark.parametrize('code, said', [('raise MemoryError', 'memory does not suffice'),
                                        ('from idgi_repro.errors import InputError; raise InputError("so it is")', '^so it is$')])
def test_errors_of_the_notebook_are_not_deaths(code, said, runs):
    with pytest.raises(InputError, match=said): runs(code)


@pytest.mark.parametrize('status, words', [(-9, 'memory'), (137, 'memory'), (-11, 'SIGSEGV'), (139, 'SIGSEGV'), (-7, 'SIGBUS'), (-6, 'SIGABRT'), (134, 'SIGABRT'), (-15, 'SIGTERM'), (1, 'status 1'),
                                           (128, 'status 128'), (255, 'signal 127'), (-64, 'signal 64'), (None, 'without a word'), (0, 'without a word')])
def test_every_status_has_words(status, words): assert words in jobs._death(status) and ('memory' in jobs._death(status)) == (words == 'memory')

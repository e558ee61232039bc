#!/usr/bin/env python3
"""The executed notebooks as plain HTML pages with one index, which load nothing from anywhere: `make site`.

    python workflow/website.py [--out _site] [NOTEBOOK...]      all notebooks of nbs/sidebar.yml, or these

nbconvert makes the cells, latex2mathml the formulas, and workflow/website/ holds the template and its style. With Quarto, `nbdev_docs`
makes a site of the same notebooks that has a search and the documentation of every function as well."""
import argparse, re
from pathlib import Path

import nbformat, yaml
from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PackageLoader, StrictUndefined, pass_context
from latex2mathml.converter import convert
from nbconvert import HTMLExporter
from nbconvert.filters.markdown_mistune import IPythonRenderer, MarkdownWithMath
from nbconvert.preprocessors import Preprocessor, RegexRemovePreprocessor
from pygments.formatters import HtmlFormatter

ROOT = Path(__file__).resolve().parents[1]
NBS = ROOT/'nbs'


class Formulas(IPythonRenderer):
    "Formulas as MathML, which browsers draw on their own; links to notebooks lead to their pages."
    def inline_math(self, body): return convert(body)
    def block_math(self, body): return f'<div class="formula">{convert(body, display="block")}</div>'
    def link(self, text, url, title=None): return super().link(text, re.sub(r'^(?!\w+:)([^#]*)\.ipynb(?=#|$)', r'\1.html', url), title)

class Cells(Preprocessor):
    "Code without nbdev's directives, prose with the files that it says to include."
    def preprocess_cell(self, cell, resources, index):
        if cell.cell_type == 'code': cell.source = re.sub(r'(?m)^#\|.*\n?', '', cell.source)
        else: cell.source = re.sub(r'<!-- include (\S+) -->', lambda m: (ROOT/m[1]).read_text('utf-8'), cell.source)
        return cell, resources

class Exporter(HTMLExporter):
    "A notebook as the body of a page."
    template_name, exclude_input_prompt, exclude_output_prompt = 'basic', True, True

    @pass_context
    def markdown2html(self, context, source): return MarkdownWithMath(renderer=Formulas(escape=False)).render(source)

def contents():
    "Title of each section, and its notebooks; the first has none."
    found = [('', [])]
    for entry in yaml.safe_load((NBS/'sidebar.yml').read_text('utf-8'))['website']['sidebar']['contents']:
        if isinstance(entry, str): found[0][1].append(entry)
        else: found.append((entry['section'], entry['contents']))
    return found

def head(nb):
    "A notebook's title and description."
    said = ''.join(c.source for c in nb.cells[:1])
    title, about = (re.search(rf'(?m)^{mark} (.+)', said) for mark in ('#', '>'))
    return title[1] if title else '', about[1] if about else ''

def colours():
    "Pygments' classes by day and by night."
    day, night = (HtmlFormatter(style=s).get_style_defs('.highlight') for s in ('friendly', 'github-dark'))
    return f'{day}\n@media (prefers-color-scheme:dark){{{night}}}'

def site(out, names=()):
    "Writes the pages; returns them."
    notebooks = {n: nbformat.read(NBS/n, 4) for _, part in contents() for n in part}
    loaders = FileSystemLoader(ROOT/'workflow'/'website'), PackageLoader('idgi_repro.report', 'template')
    templates = Environment(loader=ChoiceLoader(loaders), autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    shell = templates.get_template('site.html')
    hidden = RegexRemovePreprocessor(patterns=[r'#\|\s*(hide\b|default_exp)'], enabled=True)
    exporter, colour, heads, made = Exporter(preprocessors=[hidden, Cells]), colours(), {n: head(nb) for n, nb in notebooks.items()}, []
    for name in names or notebooks:
        body, _ = exporter.from_notebook_node(notebooks[name])
        page = out/Path(name).with_suffix('.html')
        page.parent.mkdir(parents=True, exist_ok=True)
        parts = [(title, [(n, n[:-6] + '.html', *heads[n]) for n in part]) for title, part in contents()]
        html = shell.render(name=name, body=body, up='../'*name.count('/'), parts=parts, colours=colour, title=heads[name][0])
        page.write_text(html, 'utf-8')
        made.append(page)
    return made

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--out', type=Path, default=ROOT/'_site', help='folder for the pages (default: _site)')
    parser.add_argument('notebooks', nargs='*', help='as in nbs/sidebar.yml, such as method/paths.ipynb')
    a = parser.parse_args()
    print(f'{len(site(a.out, a.notebooks))} pages in {a.out}')

if __name__ == '__main__': main()

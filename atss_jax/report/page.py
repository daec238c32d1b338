"""The evaluation report: one HTML file that needs nothing else, not even a network."""

import html
import importlib.resources
import os
import pathlib
import string
from collections.abc import Mapping

from atss_jax.data.records import Source
from atss_jax.files.atomic import write_text
from atss_jax.report import sections
from atss_jax.report.analysis import Analysis, analyze
from atss_jax.report.gallery import gallery


def write_report(
    path: str | os.PathLike,
    source: Source,
    results: list[dict],
    title: str,
    min_score: float,
) -> Analysis:
    """Analyzes results and writes the page; returns the analysis.

    Args:
        path: the .html file.
        source: images and ground truth.
        results: COCO results.
        title: what was evaluated.
        min_score: of detections in the confusion matrix and the images.
    """
    analysis = analyze(
        source.ground_truth(),
        results,
        source.classes,
        source.category_ids,
        source.records.image_ids,
        min_score,
    )
    write_text(path, page(title, analysis, source))
    return analysis


def page(title: str, analysis: Analysis, source: Source) -> str:
    """The whole page."""
    contents = {
        'COCO numbers': sections.summary(analysis),
        'AP by class': sections.class_table(analysis),
        'Precision and recall': sections.curves(analysis),
        'By size': sections.sizes(analysis),
        'What the errors cost': sections.errors(analysis),
        'Score calibration': sections.calibration(analysis),
        'Confusion': sections.confusion(analysis),
        'Worst images': _worst_images(analysis, source),
    }
    counts = f'{len(analysis.images):,} images, {len(analysis.classes):,} classes'
    return assemble(title, counts, contents)


def assemble(
    title: str, counts: str, contents: Mapping[str, str], addition: str | None = None
) -> str:
    """A page of sections.

    Args:
        title: plain text.
        counts: plain text under the title.
        contents: the HTML of each section by its name.
        addition: name of a style and a script in `assets` that the page needs too.
    """
    folder = importlib.resources.files('atss_jax.report') / 'assets'
    names = ['report'] if addition is None else ['report', addition]
    template = string.Template((folder / 'report.html').read_text(encoding='utf-8'))
    return template.substitute(
        title=html.escape(title),
        counts=html.escape(counts),
        style=''.join((folder / f'{name}.css').read_text('utf-8') for name in names),
        script=''.join((folder / f'{name}.js').read_text('utf-8') for name in names),
        contents=''.join(
            f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name in contents
        ),
        sections=''.join(
            f'<section id="{_anchor(name)}"><h2>{name}</h2>{content}</section>'
            for name, content in contents.items()
        ),
    )


def _anchor(name):
    return name.lower().replace(' ', '-')


def _worst_images(analysis: Analysis, source: Source) -> str:
    index_of = {int(id_): i for i, id_ in enumerate(source.records.image_ids)}
    records = {id_: source.records[index_of[id_]] for id_ in analysis.worst}
    # The file name of each image; the id of one that is generated.
    names = {
        id_: pathlib.Path(record.file_name).name or f'image {id_}'
        for id_, record in records.items()
    }
    return gallery(analysis, names, lambda id_: source.read_image(records[id_]))

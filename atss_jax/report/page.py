"""The evaluation report: one HTML file that needs nothing else, no network either."""

import html
import importlib.resources
import pathlib
import string
from collections.abc import Iterable

from atss_jax.data.records import Source
from atss_jax.report import sections
from atss_jax.report.analysis import Analysis, analyze
from atss_jax.report.gallery import gallery


def write_report(
    path: str | pathlib.Path,
    source: Source,
    results: list[dict],
    title: str,
    min_score: float,
) -> Analysis:
    """Analyzes results and writes the page; returns what it says.

    Args:
        path: the .html file.
        source: images and truth.
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
    path = pathlib.Path(path)
    temporary = path.with_name(path.name + '.tmp')
    temporary.write_text(page(title, analysis, source), encoding='utf-8')
    temporary.replace(path)
    return analysis


def page(title: str, analysis: Analysis, source: Source) -> str:
    """The whole page."""
    rows = {int(id_): row for row, id_ in enumerate(source.records.image_ids)}
    parts = (
        ('COCO numbers', sections.summary(analysis)),
        ('AP by class', sections.class_table(analysis)),
        ('Precision and recall', sections.curves(analysis)),
        ('By size', sections.sizes(analysis)),
        ('What the errors cost', sections.errors(analysis)),
        ('Score calibration', sections.calibration(analysis)),
        ('Confusion', sections.confusion(analysis)),
        (
            'Worst images',
            gallery(
                analysis,
                _names(source, rows, analysis.worst),
                lambda image_id: source.read_image(source.records[rows[image_id]]),
            ),
        ),
    )
    folder = importlib.resources.files('atss_jax.report') / 'assets'
    template = string.Template((folder / 'report.html').read_text(encoding='utf-8'))
    return template.substitute(
        title=html.escape(title),
        images=f'{len(analysis.images):,}',
        classes=f'{len(analysis.classes):,}',
        style=(folder / 'report.css').read_text(encoding='utf-8'),
        script=(folder / 'report.js').read_text(encoding='utf-8'),
        contents=''.join(
            f'<li><a href="#{_anchor(name)}">{name}</a></li>' for name, _ in parts
        ),
        sections=''.join(
            f'<section id="{_anchor(name)}"><h2>{name}</h2>{content}</section>'
            for name, content in parts
        ),
    )


def _anchor(name):
    return name.lower().replace(' ', '-')


def _names(source: Source, rows: dict[int, int], image_ids: Iterable[int]):
    """File name of each image; the id of one that is generated."""
    names = {}
    for image_id in image_ids:
        file_name = source.records[rows[image_id]].file_name
        names[image_id] = pathlib.Path(file_name).name or f'image {image_id}'
    return names

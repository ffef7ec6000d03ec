"""A study's report, shown where it is asked for in a notebook."""

import dataclasses
import html

from finetune_scaling.files import Location


@dataclasses.dataclass(frozen=True)
class Report:
    """report.html of a study: laws, held-out errors, critical sizes, findings, scores; it needs no network."""

    path: Location

    @property
    def html(self) -> str:
        """The page."""
        return self.path.read_text(encoding="utf-8")

    def _repr_html_(self) -> str:
        """The page in a frame of its own, whose style and scripts are its own, too."""
        return (
            f'<iframe srcdoc="{html.escape(self.html)}" title="report" loading="lazy" '
            'style="width: 100%; height: 640px; border: 1px solid #ccc"></iframe>'
        )

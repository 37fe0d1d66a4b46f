"""The report of a run: one self-contained HTML page."""

from patchmix.reporting.page import report as report

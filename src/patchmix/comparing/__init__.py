"""`patchmix compare`: several methods and settings at the same cost, over seeds, in one table with intervals.

words (what was asked for, read) → settings (what is compared) → request → budget (epochs of each) → study (runs them:
cells, asked, images, processes, child, display) → differences (statistics) → summary (comparison.json, table) → page
(index.html).
"""

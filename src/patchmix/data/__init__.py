"""Data sets by name, random views of images, and batches of them.

`datasets.open_dataset` gives an ImageSource, `views.ViewMaker` makes views of its images, and
`loading.TrainingLoader` puts both together in worker processes.
"""

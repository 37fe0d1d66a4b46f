"""`patchmix bench`: what a training step costs, where the time goes, and the plain version beside it.

request.py     what is asked for                    inputs.py      the images: real ones, or synthetic files
steps.py       steps, timed in turns                products.py    operations counted, and this machine's limit
memory.py      peak memory, in processes            pipeline.py    what a worker spends on an image
plain.py       the plain version, if it is here     tables.py      what is shown
command.py     all of it
"""

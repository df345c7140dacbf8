"""From raw reviews to a dataset folder, the paper's section 5.1.

amazon, tables   readers of raw files -> frames of reviews and of items
cleaning         titles that a T5 vocabulary can print
filtering        repeats and the joint k-core
splits           leave-one-out
candidates       negatives, drawn once and stored
statistics       the paper's Table 5
prepare          all of it, in order
folder           what `prepare` wrote, read back
synthetic        a made-up shop with planted tastes
"""

"""From raw reviews to a dataset folder, the paper's section 5.1.

amazon, tables   readers of raw files -> frames of reviews and of items
cleaning         titles that a T5 vocabulary can print
categories       category labels that a shopper would search by
filtering        repeats and the joint k-core
splits           leave-one-out, or two moments that cut all users' histories
item_split       which items product search is trained and tested on
candidates       negatives, drawn once
held_out         splits and candidates, stored
statistics       the paper's Table 5
prepare          all of it, in order
download         the published files of Amazon reviews
folder           what `prepare` wrote, read back
synthetic        a made-up shop with planted tastes
"""

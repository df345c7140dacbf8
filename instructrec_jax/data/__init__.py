"""From raw reviews to a dataset folder, the paper's section 5.1.

lines, amazon, tables   readers: raw files -> frames of reviews and of items
cleaning     titles that a T5 vocabulary can encode, and category labels
selection    titled items, no repeats, the joint k-core
splits       sequences; leave-one-out or global time; product search's items
candidates   negatives, sampled once
held_out     candidate lists: stored, read by scenario, checked
statistics   the paper's Table 5
folder       names and tables of a dataset folder
prepare      all of it, in order
download     the published files of Amazon reviews
synthetic    a shop with planted tastes
"""

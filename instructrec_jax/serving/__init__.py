"""A trained model in front of people.

recommender    a user's own words in, a ranking out, from Python
explanation    which of the words weigh most
model_export   the folder that a model is taken elsewhere in
"""

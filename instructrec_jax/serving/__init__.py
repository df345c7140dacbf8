"""Serving a trained model: from Python, over HTTP, from an export.

recommender    a user's own words in, a ranking out, from Python
explanation    the words and titles that a ranking depends on most
model_export   a self-contained folder of a trained model
app            the HTTP application: its routes, errors and page
service        what the routes answer; warm-up
mcp_tools      the same for assistants, as tools of MCP
batcher        requests of many connections in one batch
"""

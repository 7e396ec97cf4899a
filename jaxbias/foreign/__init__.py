"""Tools for anyone's model, read from the jaxpr of its own function: contacts, roles, surgery, capture."""

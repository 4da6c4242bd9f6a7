from alignxplore_trl.training import trl_private


def test_trl_and_transformers_are_as_the_trainers_expect():
    changed = trl_private.changed_private_names()
    assert not changed, "read the trainers again before changing the table:\n" + "\n".join(changed)


def test_a_changed_signature_is_named(monkeypatch):
    class Changed:
        def step(self, model, extra=None): ...

    monkeypatch.setattr(trl_private, "OVERRIDDEN", {(Changed, "step"): "(self, model)"})
    monkeypatch.setattr(trl_private, "CALLED", {(Changed, "gone"): "(self)"})
    assert trl_private.changed_private_names() == [
        "Changed.step: (self, model, extra=None) found, expected (self, model)",
        "Changed.gone: None found, expected (self)",
    ]

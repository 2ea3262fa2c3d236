"""Classifiers of images: the training loss, and the heads and treatments of features in the test."""

import pytest
import torch
from torch.nn.functional import cross_entropy, normalize

from fewshot.episodes.minibatch import ImageBatch
from fewshot.errors import ParamsError
from fewshot.heads import build_head
from fewshot.learners import CLASSIFIERS, EvaluationSettings, LearnerContext, build_learner, check_evaluation
from fewshot.settings import parse_as

CONTEXT = LearnerContext(n_way=3, image_size=16, n_classes=7)


@pytest.fixture
def build():
    """Return a function that builds a classifier in float64, with a mean of the features."""

    def learner(name="classifier", context=CONTEXT, **settings):
        torch.manual_seed(0)
        built = build_learner(name, backbone="conv4", context=context, backbone_settings={"filters": 4}, **settings)
        built.set_feature_mean(torch.full((4,), 0.2))
        return built.double().eval()

    return learner


def changes(**values):
    return parse_as(EvaluationSettings, values, where="")


def images(n=6):
    generator = torch.Generator().manual_seed(3)
    labels = torch.arange(n) % 7
    return ImageBatch(torch.randn(n, 3, 16, 16, generator=generator, dtype=torch.float64), labels, torch.arange(n))


def test_the_loss_is_the_cross_entropy_over_all_training_classes(build):
    learner, batch = build(), images()
    scores = learner.embed(batch.images) @ learner.classes.weight.T + learner.classes.bias
    output = learner.loss(batch, 0)
    torch.testing.assert_close(output.loss, cross_entropy(scores, batch.labels))
    assert output.accuracy == (scores.argmax(1) == batch.labels).float().mean()


def test_label_smoothing_spreads_over_the_wrong_classes(build):
    """Torch spreads over all K classes: its epsilon is K / (K - 1) times ours."""
    learner, batch = build(context=LearnerContext(image_size=16, n_classes=7, label_smoothing=0.12)), images()
    scores = learner.classes(learner.embed(batch.images))
    expected = cross_entropy(scores, batch.labels, label_smoothing=0.12 * 7 / 6)
    torch.testing.assert_close(learner.loss(batch, 0).loss, expected)


def test_baselinepp_scores_are_scaled_cosines(build):
    learner, batch = build("baselinepp", training_scale=4.0), images()
    cosines = normalize(learner.embed(batch.images)) @ normalize(learner.classes.weight).T
    torch.testing.assert_close(learner.loss(batch, 0).loss, cross_entropy(4 * cosines, batch.labels))


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_training_reaches_the_backbone_and_the_class_layer_but_not_the_head(name, build):
    learner = build(name).train()
    learner.loss(images(), 0).loss.backward()
    reached = {name for name, value in learner.named_parameters() if value.grad is not None}
    assert reached == {name for name, _ in learner.named_parameters() if not name.startswith("head.")}


@pytest.mark.parametrize(("l2", "centre"), [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("head", ["ridge", "logistic"])
def test_the_head_receives_treated_features(l2, centre, head, build, random_batch):
    learner, batch = build(head="ridge", l2=l2, centre=centre), random_batch()
    support, query = (learner.embed(i.flatten(0, 1))[None] for i in (batch.support_images, batch.query_images))
    if centre:
        support, query = support - 0.2, query - 0.2
    if l2:
        support, query = normalize(support, dim=2), normalize(query, dim=2)
    expected = build_head(head).double()(support, batch.support_labels, query, n_way=3)

    torch.testing.assert_close(learner.for_evaluation(changes(head=head)).logits(batch), expected)


def test_a_variant_changes_head_and_treatment_of_the_same_weights(build, random_batch):
    learner, batch = build(), random_batch()
    changed = learner.for_evaluation(changes(head="ridge", head_settings={"ridge": 3.0}, l2=False, centre=True))
    torch.testing.assert_close(
        changed.logits(batch), build(head="ridge", head_settings={"ridge": 3.0}, l2=False, centre=True).logits(batch)
    )
    assert changed.backbone is learner.backbone
    assert changed.feature_mean is learner.feature_mean


REFUSED = [
    ({"head": "sfm"}, r"unknown head 'sfm'.*Did you mean 'svm'"),
    ({"head": "ridge", "head_settings": {"bound": 1.0}}, "unknown key 'bound'"),
    ({"head_settings": {"ridge": 1.0}}, "unknown key 'ridge'"),
]


@pytest.mark.parametrize(("settings", "words"), REFUSED)
def test_heads_that_do_not_exist_are_refused_when_built_and_in_a_variant(settings, words, build):
    with pytest.raises(ParamsError, match=words):
        build(**settings)
    with pytest.raises(ParamsError, match=words):
        check_evaluation("classifier", changes(**settings), backbone="conv4", context=CONTEXT)


def test_an_unknown_number_of_classes_is_an_error(build):
    with pytest.raises(ParamsError, match=r"the number of training classes is not known .* set learner\.n_classes"):
        build(context=LearnerContext(image_size=16))
    assert build(context=LearnerContext(image_size=16), n_classes=9).classes.out_features == 9


def test_inner_steps_of_a_classifier_and_treated_features_of_other_learners_are_refused():
    with pytest.raises(ParamsError, match=r"cannot be evaluated with inner_steps 3.*allowed: .*l2, centre"):
        check_evaluation("classifier", changes(inner_steps=3), backbone="conv4", context=CONTEXT)
    for name, backbone in (("ridge", "conv4"), ("maml", "conv4_maml")):
        with pytest.raises(ParamsError, match=f"learner '{name}' cannot be evaluated with centre"):
            check_evaluation(name, changes(centre=True), backbone=backbone, context=CONTEXT)

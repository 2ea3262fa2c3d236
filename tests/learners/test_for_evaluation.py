"""A trained learner can be evaluated with another head, number of inner steps or batch norm; its weights are shared."""

import subprocess
import sys

import pytest
import torch
from torch import nn

from fewshot.episodes import EpisodeBatch
from fewshot.errors import ParamsError
from fewshot.heads import HEADS, build_head
from fewshot.learners import (
    ADAPTIVE_LEARNERS,
    LEARNERS,
    EpisodicLearner,
    EvaluationSettings,
    Learner,
    LearnerContext,
    build_learner,
)
from fewshot.learners import check_evaluation as check
from fewshot.settings import parse_as

CONTEXT = LearnerContext(n_way=3, image_size=16, n_classes=7)


def changes(**values):
    return parse_as(EvaluationSettings, values, where="")


def episodic(name="svm", **settings):
    torch.manual_seed(0)
    learner = build_learner(name, backbone="conv4", context=CONTEXT, backbone_settings={"filters": 4}, **settings)
    with torch.no_grad():
        learner.head.scale.fill_(3.0)
    return learner.double().eval()


def scores(learner, head):
    """Return what a head gives for the embedding of a learner, as a function of a batch."""

    def of(batch):
        support, query = (learner.embed(i.flatten(0, 1)) for i in (batch.support_images, batch.query_images))
        return head(support[None], batch.support_labels, query[None], n_way=3)

    return of


@pytest.fixture
def build(small_learner):
    """Return a function that builds any learner by name."""
    return lambda name, **settings: (small_learner if name in ADAPTIVE_LEARNERS else episodic)(name, **settings).eval()


@pytest.mark.parametrize("name", LEARNERS)
def test_without_changes_the_logits_are_the_same(name, build, random_batch):
    learner, batch = build(name), random_batch()
    assert torch.equal(learner.for_evaluation(changes()).logits(batch), learner.logits(batch))


@pytest.mark.parametrize("name", HEADS)
def test_the_same_head_by_name_gives_the_same_logits(name, random_batch):
    learner, batch = episodic(name), random_batch()
    assert torch.equal(learner.for_evaluation(changes(head=name)).logits(batch), learner.logits(batch))


def test_another_head_scores_the_same_embedding_with_the_trained_scale(random_batch):
    learner, batch = episodic("prototype"), random_batch()
    changed = learner.for_evaluation(changes(head="svm", head_settings={"bound": 0.5}))
    expected = 3 * scores(learner, build_head("svm", bound=0.5).double())(batch)

    torch.testing.assert_close(changed.logits(batch), expected, rtol=1e-12, atol=1e-12)
    assert changed.head.scale is learner.head.scale
    assert all(changed.backbone.get_parameter(n) is p for n, p in learner.backbone.named_parameters())
    assert type(learner.head).__name__ == "PrototypeHead"


def test_settings_without_a_head_change_those_of_the_trained_one(random_batch):
    learner, batch = episodic("ridge", ridge=3.0, target_scale=1.0), random_batch()
    changed = learner.for_evaluation(changes(head_settings={"ridge": 7.0}))
    assert changed.head.settings.model_dump() == learner.head.settings.model_dump() | {"ridge": 7.0}
    assert not torch.allclose(changed.logits(batch), learner.logits(batch))


def test_an_exactly_trained_svm_is_stopped_after_the_given_iterations_in_evaluation(random_batch):
    learner, batch = episodic("svm", bound=0.3), random_batch()
    stopped = {"solver": "truncated", "solver_precision": "float64"}
    changed = learner.for_evaluation(changes(head_settings={**stopped, "max_iterations": 3}))
    reference = build_head("svm", bound=0.3, max_iterations=3, **stopped).double().train()
    longer = build_head("svm", bound=0.3, max_iterations=12, **stopped).double().train()

    found = changed.logits(batch)

    assert torch.equal(found, 3 * scores(learner, reference)(batch))
    assert not torch.allclose(found, 3 * scores(learner, longer)(batch), rtol=1e-6)
    assert len(changed.take_certificates()["converged"]) == 1
    assert learner.take_certificates() == {}


def test_a_head_of_ones_own_can_be_replaced_but_has_no_settings_to_change(random_batch):
    class Constant(nn.Module):
        def forward(self, support, support_labels, query, n_way):
            return query.new_zeros(*query.shape[:2], n_way)

    backbone = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 5)).double()
    learner, batch = EpisodicLearner(backbone, Constant(), CONTEXT), random_batch()

    found = learner.for_evaluation(changes(head="ridge")).logits(batch)

    torch.testing.assert_close(found, scores(learner, build_head("ridge").double())(batch))
    with pytest.raises(ParamsError, match="not Constant; name the head"):
        learner.for_evaluation(changes(head_settings={"ridge": 1.0}))


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "boil"])
@pytest.mark.parametrize("change", [{"inner_steps": 4}, {"batch_norm": "support"}])
def test_inner_steps_and_batch_norm_equal_those_of_a_learner_built_with_them(name, change, small_learner, random_batch):
    learner, batch = small_learner(name).eval(), random_batch()
    expected = small_learner(name, **change).eval().logits(batch)
    before = learner.logits(batch)
    changed = learner.for_evaluation(changes(**change))

    assert torch.equal(changed.logits(batch), expected)
    assert torch.equal(learner.logits(batch), before)
    assert not torch.allclose(before, expected)
    assert changed.diagnose(batch)["support_loss"].shape == (1, change.get("inner_steps", 2))


REFUSED = [
    ("svm", {"inner_steps": 3}, "cannot be evaluated with inner_steps 3.*allowed: head, head_settings"),
    ("svm", {"batch_norm": "support"}, "cannot be evaluated with batch_norm 'support'"),
    ("svm", {"head": "sfm"}, "unknown head 'sfm'.* Did you mean 'svm'"),
    ("svm", {"head": "ridge", "head_settings": {"bound": 1.0}}, "unknown key 'bound'; allowed: initial_scale, ridge"),
    ("svm", {"head_settings": {"bound": -1.0}}, "bound: -1.0 is not allowed"),
    ("maml", {"augmented_support": 5}, "cannot be evaluated with augmented_support: its inner loop"),
    ("maml", {"head": "svm"}, "cannot be evaluated with another head"),
    ("maml", {"head_settings": {"ridge": 1.0}}, "cannot be evaluated with another head"),
    ("mamlpp", {"inner_steps": 7}, r"inner_steps 7: it has parameters for each of its 2 inner steps"),
    ("alfa", {"inner_steps": 1}, r"inner_steps 1: it has parameters for each of its 2 inner steps"),
]


@pytest.mark.parametrize(("name", "change", "words"), REFUSED)
def test_changes_that_do_not_fit_are_refused_by_the_learner_and_before_training(name, change, words, build):
    with pytest.raises(ParamsError, match=words):
        build(name).for_evaluation(changes(**change))
    backbone, settings = ("conv4", {}) if name in HEADS else ("conv4_maml", {"inner_steps": 2})
    with pytest.raises(ParamsError, match=words):
        check(name, changes(**change), backbone=backbone, context=CONTEXT, **settings)


def test_per_query_batch_norm_on_a_single_pixel_is_refused_too(small_learner):
    single = {"pooling": "stride"}
    with pytest.raises(ParamsError, match="2 or more pixels"):
        small_learner("maml", backbone_settings=single).for_evaluation(changes(batch_norm="per_query"))
    with pytest.raises(ParamsError, match="2 or more pixels"):
        check("maml", changes(batch_norm="per_query"), backbone="conv4_maml", context=CONTEXT, backbone_settings=single)


def test_a_learner_of_ones_own_refuses_changes_unless_it_supports_them():
    class Fixed(Learner):
        pass

    learner = Fixed()
    assert learner.for_evaluation(changes()) is learner
    with pytest.raises(ParamsError, match="Fixed cannot be evaluated with settings other"):
        learner.for_evaluation(changes(inner_steps=3))


@pytest.mark.parametrize("value", [{"inner_steps": 0}, {"batch_norm": "running"}, {"heads": "svm"}])
def test_values_out_of_range_are_refused(value):
    with pytest.raises(ParamsError, match=next(iter(value))):
        changes(**value)


def test_the_check_does_not_import_torch():
    code = (
        "import sys; from fewshot.learners import EvaluationSettings, check_evaluation as check; "
        "check('maml', EvaluationSettings(inner_steps=9, batch_norm='support'), backbone='conv4_maml'); "
        "check('svm', EvaluationSettings(head='ridge'), backbone='conv4'); assert 'torch' not in sys.modules"
    )
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.fixture
def pooled():
    """Return a function that builds a learner on ResNet-12 at 32 pixels, whose last map has 2 x 2 pixels."""

    def build(name, pooling, **settings):
        torch.manual_seed(0)
        context = LearnerContext(n_way=3, image_size=32, n_classes=7)
        network = {"pooling": pooling, "dropblock": "off"}
        return build_learner(name, backbone="resnet12", context=context, backbone_settings=network, **settings).eval()

    return build


@pytest.mark.parametrize("name", ["ridge", "classifier"])
@pytest.mark.parametrize(("trained", "tested"), [("mean", "flatten"), ("flatten", "mean")])
def test_another_pooling_gives_the_embedding_of_a_network_built_with_it(name, trained, tested, pooled):
    learner, reference = pooled(name, trained), pooled(name, tested)
    changed, images = learner.for_evaluation(changes(pooling=tested)), torch.rand(4, 3, 32, 32)

    assert torch.equal(changed.embed(images), reference.embed(images))
    assert changed.embedding_size == reference.embedding_size == changed.embed(images).shape[1]
    assert learner.embed(images).shape[1] == learner.embedding_size != changed.embedding_size
    assert all(changed.backbone.get_parameter(n) is p for n, p in learner.backbone.named_parameters())


def test_a_classifier_without_its_linear_layer_classifies_flattened_maps(pooled):
    changed = pooled("classifier", "mean").for_evaluation(changes(pooling="flatten", head="ridge"))
    support, query = torch.rand(3, 3, 32, 32), torch.rand(6, 3, 32, 32)
    labels = torch.arange(3)[None]
    batch = EpisodeBatch(support[None], labels, query[None], labels.repeat(1, 2), torch.arange(1), n_way=3)
    found = changed.logits(batch)
    parts = [nn.functional.normalize(changed.embed(images), dim=-1)[None] for images in (support, query)]
    torch.testing.assert_close(found, build_head("ridge")(parts[0], labels, parts[1], n_way=3))


POOLING_REFUSED = [
    ("svm", "conv4", {}, {"pooling": "mean"}, "backbone 'conv4' has no choice of pooling; allowed: resnet12"),
    ("classifier", "resnet12", {}, {"pooling": "mean", "centre": True}, "another pooling and centre: .*set centre"),
    ("classifier", "resnet12", {"centre": True}, {"pooling": "mean"}, "another pooling and centre: .*set centre"),
    ("maml", "conv4_maml", {}, {"pooling": "mean"}, "another pooling: its linear head"),
]


@pytest.mark.parametrize(("name", "backbone", "settings", "change", "words"), POOLING_REFUSED)
def test_a_pooling_that_does_not_fit_is_refused_before_training(name, backbone, settings, change, words):
    with pytest.raises(ParamsError, match=words):
        check(name, changes(**change), backbone=backbone, context=CONTEXT, **settings)


def test_a_pooling_that_does_not_fit_is_refused_by_the_learner(pooled, build):
    centred, flattened = changes(centre=True), changes(pooling="flatten")
    with pytest.raises(ParamsError, match="set centre"):
        pooled("classifier", "mean", centre=True).for_evaluation(flattened)
    with pytest.raises(ParamsError, match="set centre"):
        pooled("classifier", "mean").for_evaluation(flattened).for_evaluation(centred)
    pooled("classifier", "mean").for_evaluation(changes(centre=True, pooling="mean"))
    with pytest.raises(ParamsError, match="Conv4 has no choice of pooling"):
        build("svm").for_evaluation(changes(pooling="mean"))
    with pytest.raises(ParamsError, match="another pooling"):
        build("maml").for_evaluation(changes(pooling="mean"))
    own = EpisodicLearner(nn.Flatten(), build_head("ridge"), CONTEXT)
    with pytest.raises(ParamsError, match="not Flatten"):
        own.for_evaluation(changes(pooling="mean"))

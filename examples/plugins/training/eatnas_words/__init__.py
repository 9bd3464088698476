"""Train a language model of letters. The architecture's depths and widths set its layers; the metric is perplexity."""

import torch
from torch import nn

TEXT = "the cat sat on the mat and the dog sat on the log while the rat ran past the hat of the man " * 4


def train(network, task, recipe, report):
    """Train a candidate to predict the next letter."""
    letters = sorted(set(TEXT))
    codes = torch.tensor([letters.index(letter) for letter in TEXT])
    split = len(codes) * 3 // 4
    context = recipe.options.get("context", 4)
    model = build(network.architecture, len(letters), context).to(task.device)
    optimizer = torch.optim.Adam(model.parameters(), lr=recipe.learning_rate)
    saved = report.resume()
    if saved is not None:
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
    inputs, targets = windows(codes[:split].to(task.device), context)
    held_out = windows(codes[split:].to(task.device), context)
    for epoch in range(report.finished_epochs, recipe.epochs):
        order = torch.randperm(len(targets), generator=torch.Generator().manual_seed(task.seed % 2**32 + epoch))
        for chosen in order.split(recipe.batch_size):
            loss = nn.functional.cross_entropy(model(inputs[chosen]), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            perplexity = nn.functional.cross_entropy(model(held_out[0]), held_out[1]).exp()
        report.epoch(epoch, train_loss=loss.item(), perplexity=perplexity.item())
        report.checkpoint({"model": model.state_dict(), "optimizer": optimizer.state_dict()})


def build(architecture, letters, context):
    """Return a network with one hidden layer for each pair of blocks; the widths of the blocks decide its size."""
    layers, size = [nn.Embedding(letters, 8), nn.Flatten()], 8 * context
    for block in architecture.blocks[::2]:
        width = int(16 * block.value("width")) + 4 * block.value("depth")
        layers += [nn.Linear(size, width), nn.ReLU()]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, letters))


def windows(codes, context):
    """Return all runs of `context` letters, and the letter that follows each."""
    return codes.unfold(0, context, 1)[:-1], codes[context:]

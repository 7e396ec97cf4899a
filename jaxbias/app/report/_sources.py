"""Addresses of the works that derivations and claims cite: a DOI, arXiv, or the publisher's own page."""

import html
import re

_ARXIV = "https://arxiv.org/abs/"
_DOI = "https://doi.org/"
_BISHOP = (
    "https://www.microsoft.com/en-us/research/uploads/prod/2006/01/"
    "Bishop-Pattern-Recognition-and-Machine-Learning-2006.pdf"
)

WORKS = {
    r"Nielsen \(2015\)": "http://neuralnetworksanddeeplearning.com/chap2.html",
    r"(C\. )?Bishop(, PRML)? \(2006\)": _BISHOP,
    r"Clevert et al\. \(2016\)": _ARXIV + "1511.07289",
    r"Elfwing et al\. \(2018\)": _ARXIV + "1702.03118",
    r"Hendrycks and Gimpel \(2016\)": _ARXIV + "1606.08415",
    r"(S\. )?Ioffe and (C\. )?Szegedy(, Batch Normalization)? \(2015\)": _ARXIV + "1502.03167",
    r"Szegedy et al\. \(2016\)": _ARXIV + "1512.00567",
    r"Dumoulin and Visin \(2016\)": _ARXIV + "1603.07285",
    r"Srivastava et al\. \(2014\)": "https://jmlr.org/papers/v15/srivastava14a.html",
    r"Wu and He \(2018\)": _ARXIV + "1803.08494",
    r"(J\. )?Ba et al\. \(2016\)|J\. Ba, J\. Kiros and G\. Hinton, Layer Normalization \(2016\)": _ARXIV + "1607.06450",
    r"(B\. )?Zhang and (R\. )?Sennrich(, RMSNorm)? \(2019\)": _ARXIV + "1910.07467",
    r"Elman \(1990\)": _DOI + "10.1207/s15516709cog1402_1",
    r"Cortes and Vapnik \(1995\)": _DOI + "10.1007/BF00994018",
    r"Crammer and Singer \(2001\)": "https://www.jmlr.org/papers/v2/crammer01a.html",
    r"Huber \(1964\)": _DOI + "10.1214/aoms/1177703732",
    r"S\. Srinivas and F\. Fleuret, Full-Gradient Representation \(2019\)": _ARXIV + "1905.00780",
    r"S\. Mohan et al\., Robust and Interpretable Blind Image Denoising via Bias-Free CNNs \(2020\)": (
        _ARXIV + "1906.05478"
    ),
    r"B\. Neyshabur, R\. Salakhutdinov and N\. Srebro, Path-SGD \(2015\)": _ARXIV + "1506.02617",
    r"S\. Du, W\. Hu and J\. Lee, Algorithmic Regularization in Deep Homogeneous Models \(2018\)": (
        _ARXIV + "1806.00900"
    ),
    r"T\. Lin et al\., Focal Loss( for Dense Object Detection)? \(2017\)": _ARXIV + "1708.02002",
    r"A\. Karpathy, A Recipe for Training Neural Networks \(2019\)": "https://karpathy.github.io/2019/04/25/recipe/",
    r"L\. Lu et al\., Dying ReLU and Initialization \(2019\)": _ARXIV + "1903.06733",
    r"B\. Poole et al\., Exponential Expressivity \(2016\)": _ARXIV + "1606.05340",
    r"S\. Schoenholz et al\. \(2017\)": _ARXIV + "1611.01232",
    r"T\. Salimans and D\. Kingma, Weight Normalization \(2016\)": _ARXIV + "1602.07868",
    r"D\. Kingma and J\. Ba, Adam \(2015\)": _ARXIV + "1412.6980",
    r"T\. Hastie, R\. Tibshirani and J\. Friedman, The Elements of Statistical Learning \(2009\)": (
        "https://hastie.su.domains/ElemStatLearn/"
    ),
    r"B\. Jacob et al\., Quantization and Training of Neural Networks \(2018\)": _ARXIV + "1712.05877",
    r"L\. Zhang, A\. Rao and M\. Agrawala, ControlNet \(2023\)": _ARXIV + "2302.05543",
    r"I\. Goodfellow, Efficient Per-Example Gradient Computations \(2015\)": _ARXIV + "1510.01799",
    r"E\. Williams et al\., Expressivity of Neural Networks with Random Weights and Learned Biases \(2025\)": (
        _ARXIV + "2407.00957"
    ),
    r"S\. Wager, S\. Wang and P\. Liang, Dropout Training as Adaptive Regularization \(2013\)": _ARXIV + "1307.1493",
    r"K\. He et al\., Delving Deep into Rectifiers \(2015\)": _ARXIV + "1502.01852",
    r"Vaswani et al\. \(2017\)": _ARXIV + "1706.03762",
    r"Press and Wolf \(2017\)": _ARXIV + "1608.05859",
    r"Dauphin et al\. \(2017\)": _ARXIV + "1612.08083",
    r"Shazeer \(2020\)": _ARXIV + "2002.05202",
    r"Hu et al\. \(2022\)": _ARXIV + "2106.09685",
    r"Kalajdzievski \(2023\)": _ARXIV + "2312.03732",
    r"Liu et al\. \(2024\)": _ARXIV + "2402.09353",
    r"Shazeer et al\. \(2017\)": _ARXIV + "1701.06538",
    r"Fedus et al\. \(2022\)": _ARXIV + "2101.03961",
    r"Zoph et al\. \(2022\)": _ARXIV + "2202.08906",
    r"He et al\. \(2015\)": _ARXIV + "1502.01852",
    r"Miyato et al\. \(2018\)": _ARXIV + "1802.05957",
    r"Salimans and Kingma \(2016\)": _ARXIV + "1602.07868",
    r"Klambauer et al\. \(2017\)": _ARXIV + "1706.02515",
    r"Barron \(2017\)": _ARXIV + "1704.07483",
    r"Misra \(2019\)": _ARXIV + "1908.08681",
    r"Howard et al\. \(2019\)": _ARXIV + "1905.02244",
    r"Shi et al\. \(2016\)": _ARXIV + "1609.05158",
    r"Hochreiter and Schmidhuber \(1997\)": _DOI + "10.1162/neco.1997.9.8.1735",
    r"Gers et al\. \(2002\)": "https://www.jmlr.org/papers/v3/gers02a.html",
    r"Gu and Dao \(2023\)": _ARXIV + "2312.00752",
    r"Gu et al\. \(2022\)": _ARXIV + "2206.11893",
    r"Orvieto et al\. \(2023\)": _ARXIV + "2303.06349",
    r"Katharopoulos et al\. \(2020\)": _ARXIV + "2006.16236",
    r"Yang et al\. \(2024\)": _ARXIV + "2312.06635",
    r"Martins and Astudillo \(2016\)": _ARXIV + "1602.02068",
    r"Peters et al\. \(2019\)": _ARXIV + "1905.05702",
    r"Lafferty et al\. \(2001\)": "https://repository.upenn.edu/cis_papers/159",
    r"Jang et al\. \(2017\)": _ARXIV + "1611.01144",
    r"Bai et al\. \(2019\)": _ARXIV + "1909.01377",
    r"LeCun \(1989\)": "http://yann.lecun.com/exdb/publis/pdf/lecun-89.pdf",
    r"Goodfellow et al\. \(2013\)": _ARXIV + "1302.4389",
    r"Qiao et al\. \(2019\)": _ARXIV + "1903.10520",
    r"Milletari et al\. \(2016\)": _ARXIV + "1606.04797",
    r"Hilbe \(2011\)": _DOI + "10.1017/CBO9780511973420",
    r"Schroff et al\. \(2015\)": _ARXIV + "1503.03832",
    r"Feng et al\. \(2024\)": _ARXIV + "2410.01201",
    r"Cho et al\. \(2014\)": _ARXIV + "1406.1078",
    r"Hinton et al\. \(2015\)": _ARXIV + "1503.02531",
    r"Lin et al\. \(2017\)": _ARXIV + "1708.02002",
    r"van den Oord et al\. \(2018\)": _ARXIV + "1807.03748",
    r"Radford et al\. \(2021\)": _ARXIV + "2103.00020",
    r"Graves et al\. \(2006\)": _DOI + "10.1145/1143844.1143891",
    r"Koenker and Bassett \(1978\)": _DOI + "10.2307/1913643",
    r"Nix and Weigend \(1994\)": _DOI + "10.1109/ICNN.1994.374138",
    r"Seitzer et al\. \(2022\)": _ARXIV + "2203.09168",
}
"""Pattern of a citation, author and year → address."""

_ANY = re.compile("|".join(f"(?P<w{i}>{pattern})" for i, pattern in enumerate(WORKS)))
_ADDRESSES = list(WORKS.values())


def linked(citation: str) -> str:
    """The citation as HTML, each work in it linked to its address."""
    parts, end = [], 0
    for match in _ANY.finditer(citation):
        index = next(int(name[1:]) for name, text in match.groupdict().items() if text is not None)
        parts += [html.escape(citation[end : match.start()]), f'<a href="{html.escape(_ADDRESSES[index])}">']
        parts += [html.escape(match.group()), "</a>"]
        end = match.end()
    return "".join([*parts, html.escape(citation[end:])])

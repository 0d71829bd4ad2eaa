#!/bin/sh
# Train on the example scene, map a part of it, measure the map, draw it. A few minutes on two CPU cores.
#
#     BIN=.venv/bin sh examples/walkthrough.sh out/walkthrough
#
# BIN is the folder of the das2f-map command; without it, the command is looked up in PATH. Existing outputs
# are replaced.
set -eu

case $# in
0) out=out/walkthrough ;;
1) out=$1 ;;
*)
    echo "usage: [BIN=FOLDER] sh examples/walkthrough.sh [OUTPUT_FOLDER]" >&2
    exit 2
    ;;
esac
scene=$(dirname "$0")/gulf
das2f_map=${BIN:+$BIN/}das2f-map

if ! command -v "$das2f_map" >/dev/null; then
    echo "$das2f_map not found: install with pip install '.[train]' and set BIN to its folder" >&2
    exit 1
fi

step() {
    printf '\n== %s\n' "$1"
}

mkdir -p "$out"

step "1/5  Train a model on the labels of the example scene, for a first look, and measure it on all of the labelled ground"
"$das2f_map" train "$scene/ms.tif" "$scene/pan.tif" --labels "$scene/labels.gpkg" -o "$out/model" --name walkthrough \
    --fast --assess folds --device cpu \
    --data "examples/gulf: Landsat-8 (USGS, CC0), labels by the das2f-map authors" --overwrite

step "2/5  Map the window of examples/gulf/window.geojson with it"
"$das2f_map" classify "$scene/ms.tif" "$scene/pan.tif" --model "$out/model" \
    --aoi "$scene/window.geojson" -o "$out/landcover.tif" --device cpu --overwrite

step "3/5  Compare the map with all labels in the window"
echo "The model was trained on many of these pixels, so these figures are too good. Step 1 printed the held-out ones."
"$das2f_map" evaluate "$out/landcover.tif" --reference "$scene/labels.gpkg"

step "4/5  Compare the map with the bundled model's, which learnt longer and from more labels"
"$das2f_map" classify "$scene/ms.tif" "$scene/pan.tif" \
    --aoi "$scene/window.geojson" -o "$out/bundled.tif" --no-vectors --device cpu --overwrite
echo "The overall accuracy is the share of the window on which both models see the same class."
"$das2f_map" evaluate "$out/landcover.tif" --reference "$out/bundled.tif"

step "5/5  Draw the map"
"$das2f_map" preview "$out/landcover.tif" -o "$out/landcover.png" \
    --title "Gulf coast, a first look" --overwrite

step "Done"
echo "Look at $out/landcover.png and $out/model/training.png,"
echo "and open $out/landcover.tif and $out/landcover.gpkg in QGIS."

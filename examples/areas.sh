#!/bin/sh
# From a map of the example scene to areas with intervals. About a minute on two CPU cores.
#
#     BIN=.venv/bin sh examples/areas.sh out/areas
#
# BIN is the folder of the das2f-map and python commands; without it, they are looked up in PATH. Existing
# outputs are replaced.
set -eu

case $# in
0) out=out/areas ;;
1) out=$1 ;;
*)
    echo "usage: [BIN=FOLDER] sh examples/areas.sh [OUTPUT_FOLDER]" >&2
    exit 2
    ;;
esac
here=$(dirname "$0")
scene=$here/gulf
das2f_map=${BIN:+$BIN/}das2f-map
python=${BIN:+$BIN/}python

if ! command -v "$das2f_map" >/dev/null; then
    echo "$das2f_map not found: install das2f-map and set BIN to its folder" >&2
    exit 1
fi

step() {
    printf '\n== %s\n' "$1"
}

mkdir -p "$out"

step "1/5  Map the window of examples/gulf/window.geojson with the bundled model"
"$das2f_map" classify "$scene/ms.tif" "$scene/pan.tif" --aoi "$scene/window.geojson" \
    -o "$out/landcover.tif" --device cpu --overwrite

step "2/5  Draw a stratified sample of the map"
"$das2f_map" sample "$out/landcover.tif" -o "$out/points.gpkg" -n 1500 --overwrite

step "3/5  Label it"
echo "In earnest, a person labels the points in QGIS. Here a script answers from the labels, where it knows."
"$python" "$here/label_sample.py" "$out/points.gpkg" "$scene/labels.gpkg"

step "4/5  Estimate accuracies and areas"
"$das2f_map" evaluate "$out/landcover.tif" --reference "$out/points.gpkg"
"$das2f_map" --quiet evaluate "$out/landcover.tif" --reference "$out/points.gpkg" --json \
    >"$out/evaluation.json"

step "5/5  Write a report"
"$das2f_map" report "$out/landcover.tif" --evaluation "$out/evaluation.json" -o "$out/report.html" --overwrite

step "Done"
echo "Open $out/report.html in a browser, and $out/points.gpkg in QGIS for the labelling form."
echo "All figures are in $out/evaluation.json."

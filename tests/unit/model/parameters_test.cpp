// Counts that others published or measured; compiling this is the test.
#include <ctrain/model/parameters.hpp>
#include <ctrain/policy/presets.hpp>

#include <catch2/catch.hpp>

#include <set>
#include <string>

namespace {

using namespace ctrain;

constexpr ParameterTable big = parameters_of(erlangshen_1b3);

static_assert(big.count() == 1257371650 && big.tensors() == 393);
static_assert(parameters_of(erlangshen_3b9).count() == 3838748162);
static_assert(parameters_of(megatron_bert_mini).count() == 8698626);
// BertForSequenceClassification of bert-base-chinese: the 102,267,648 of BertModel and the head.
static_assert(parameters_of(bert_base_chinese).count() == 102267648 + 2 * 768 + 2);
static_assert(parameters_of(bert_base_chinese).tensors() == 201);

constexpr std::int64_t elements_of(const ParameterTable& t, Segment segment) {
  std::int64_t sum = 0;
  for (const Parameter& p : t.rows)
    if (p.segment == segment) sum += p.elements();
  return sum;
}
static_assert(elements_of(big, Segment::embedding) == 44568576);
static_assert(elements_of(big, Segment::block) == 50358272);
static_assert(elements_of(big, Segment::block) == 12LL * 2048 * 2048 + 13 * 2048);
static_assert(elements_of(big, Segment::head) == 4096 + 4196352 + 4098);

// The original script's substring rule lets the gains of `ln` decay; what was meant exempts them.
constexpr DecayGroup substring = decay_group(big, DecayRule::fengshenbang_substring);
static_assert(substring.elements == 1256826880 && substring.tensors == 198);
static_assert(big.count() - substring.elements == 544770 &&
              big.tensors() - substring.tensors == 195);
constexpr DecayGroup meant = decay_group(big, DecayRule::norm_and_bias_exempt);
static_assert(substring.elements - meant.elements == (2 * 24 + 1) * 2048);
// In BERT the norms are called LayerNorm, and both rules agree.
constexpr ParameterTable bert = parameters_of(bert_base_chinese);
static_assert(decay_group(bert, DecayRule::fengshenbang_substring).elements ==
              decay_group(bert, DecayRule::norm_and_bias_exempt).elements);

/// Query, key and value are one matrix, and so are their biases.
constexpr bool is_one_matrix(const ParameterTable& t, const char* query) {
  const int i = t.find(query, Segment::block);
  return i >= 0 && t.position(i + 1, 1) == t.position(i, 1) + t.rows[i].elements() &&
         t.position(i + 2, 1) == t.position(i + 1, 1) + t.rows[i].elements();
}
static_assert(is_one_matrix(big, "attention.self.query.weight"));
static_assert(is_one_matrix(big, "attention.self.query.bias"));
static_assert(big.find("attention.self.query.weight", Segment::head) == -1);

}  // namespace

TEST_CASE("model.parameters.tile_the_flat_vector_in_order") {
  for (const ModelShape& m :
       {erlangshen_1b3, erlangshen_3b9, bert_base_chinese, megatron_bert_mini}) {
    const ParameterTable t = parameters_of(m);
    std::int64_t end = 0;
    const auto walk = [&](Segment segment, int layer) {
      for (int i = 0; i < t.rows.size; ++i) {
        if (t.rows[i].segment != segment) continue;
        REQUIRE(t.position(i, layer) == end);
        REQUIRE(end % 16 == 0);
        end = round_up(end + t.rows[i].elements(), 16);
      }
    };
    walk(Segment::embedding, 0);
    for (int layer = 0; layer < m.layers; ++layer) walk(Segment::block, layer);
    walk(Segment::head, 0);
    CHECK(end == t.flat_size());
    CHECK(t.flat_size() - t.count() < 16 * t.tensors());
  }
}

TEST_CASE("model.parameters.have_names_of_their_own") {
  for (const ModelShape& m : {erlangshen_1b3, bert_base_chinese}) {
    std::set<std::string> names;
    const ParameterTable t = parameters_of(m);
    for (const Parameter& p : t.rows)
      names.insert((p.segment == Segment::block ? "bert.encoder.layer.0." : "") +
                   std::string(p.name));
    CHECK(int(names.size()) == t.rows.size);
  }
}

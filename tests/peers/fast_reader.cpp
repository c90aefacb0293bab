// A Fast DDS reader (Debian: libfastrtps-dev) as rmw_fastrtps makes one for another computer: UDP, sockets of
// the kernel's default size, best effort. Prints "matched", then the first byte and the length of the payload
// of each sample, encapsulation header included, whose bytes after it are all the same; "torn" otherwise.
//
//   fast_reader DOMAIN TOPIC TYPE
#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <unistd.h>
#include <vector>

#include <fastdds/dds/domain/DomainParticipantFactory.hpp>
#include <fastdds/dds/domain/DomainParticipant.hpp>
#include <fastdds/dds/subscriber/DataReader.hpp>
#include <fastdds/dds/subscriber/DataReaderListener.hpp>
#include <fastdds/dds/subscriber/SampleInfo.hpp>
#include <fastdds/dds/subscriber/Subscriber.hpp>
#include <fastdds/dds/topic/Topic.hpp>
#include <fastdds/dds/topic/TopicDataType.hpp>
#include <fastdds/rtps/transport/UDPv4TransportDescriptor.h>

using namespace eprosima::fastdds::dds;
using eprosima::fastrtps::rtps::InstanceHandle_t;
using eprosima::fastrtps::rtps::SerializedPayload_t;

struct Bytes : TopicDataType {
  explicit Bytes(const std::string& name) {
    setName(name.c_str());
    m_typeSize = 16 << 20;
    m_isGetKeyDefined = false;
  }
  bool serialize(void*, SerializedPayload_t*) override { return false; }
  bool deserialize(SerializedPayload_t* payload, void* data) override {
    static_cast<std::vector<unsigned char>*>(data)->assign(payload->data, payload->data + payload->length);
    return true;
  }
  std::function<uint32_t()> getSerializedSizeProvider(void*) override { return [] { return 0; }; }
  void* createData() override { return new std::vector<unsigned char>; }
  void deleteData(void* data) override { delete static_cast<std::vector<unsigned char>*>(data); }
  bool getKey(void*, InstanceHandle_t*, bool) override { return false; }
};

struct Printer : DataReaderListener {
  void on_subscription_matched(DataReader*, const SubscriptionMatchedStatus& status) override {
    if (status.current_count_change > 0) puts("matched");
  }
  void on_data_available(DataReader* reader) override {
    std::vector<unsigned char> data;
    SampleInfo info;
    while (reader->take_next_sample(&data, &info) == ReturnCode_t::RETCODE_OK) {
      if (!info.valid_data || data.size() < 5) continue;
      bool whole = std::all_of(data.begin() + 4, data.end(), [&](unsigned char b) { return b == data[4]; });
      if (whole) printf("%d %zu\n", data[4], data.size()); else puts("torn");
    }
  }
};

int main(int argc, char** argv) {
  if (argc != 4) return 2;
  setvbuf(stdout, nullptr, _IOLBF, 0);
  DomainParticipantQos qos;
  qos.transport().use_builtin_transports = false;  // its shared memory would go round the sockets
  qos.transport().user_transports.push_back(
      std::make_shared<eprosima::fastdds::rtps::UDPv4TransportDescriptor>());
  auto* participant = DomainParticipantFactory::get_instance()->create_participant(atoi(argv[1]), qos);
  if (!participant) return 1;
  TypeSupport type(new Bytes(argv[3]));
  type.register_type(participant);
  Topic* topic = participant->create_topic(argv[2], argv[3], TOPIC_QOS_DEFAULT);
  Subscriber* subscriber = participant->create_subscriber(SUBSCRIBER_QOS_DEFAULT);
  DataReaderQos reader_qos;
  reader_qos.reliability().kind = BEST_EFFORT_RELIABILITY_QOS;
  reader_qos.history().depth = 4;
  reader_qos.endpoint().history_memory_policy = eprosima::fastrtps::rtps::PREALLOCATED_WITH_REALLOC_MEMORY_MODE;
  Printer printer;
  if (!subscriber->create_datareader(topic, reader_qos, &printer)) return 1;
  char end;
  while (read(0, &end, 1) > 0) {}  // until the test closes its end
  return 0;
}
